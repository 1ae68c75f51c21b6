"""The commands' flags, from a file beside this one: help without importing a model library, and what was meant.

``python -m textenv.cli.flags_file`` writes the file; a test says when it is out of date.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from textenv.errors import ConfigError

FILE = Path(__file__).with_name("flags.json")


class Flag(NamedTuple):
    """One flag.

    Attributes:
        name: Without dashes; dotted where it belongs to a stage or its training.
        kind: What it takes, in words or as choices.
        default: Its default as one writes it; empty for none.
        help: What it is, in plain text.
        many: Whether it is a list.
        needed: Whether it comes first, without dashes, and must be given.
    """

    name: str
    kind: str
    default: str
    help: str
    many: bool = False
    needed: bool = False


@cache
def flags_of(command: str) -> dict[str, Flag]:
    """A command's flags by name, in their order."""
    rows = json.loads(FILE.read_text(encoding="utf-8")).get(command, [])
    return {row[0]: Flag(*row) for row in rows}


def closest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` where something known looks alike, else nothing."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:  # the last part alone, whatever stage it belongs to
        ends = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        near = [ends[end] for end in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(ends), n=1, cutoff=0.75)]
    return f"; did you mean {near[0]}?" if near else ""


def help_text(command: str, about: str, *, everything: bool = False) -> str:
    """A command's help: its own flags, and how many its stages have; all of them with `everything`."""
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    known = flags_of(command)
    needed = "".join(f" {flag.name.upper()}" for flag in known.values() if flag.needed)
    lines = [f"usage: textenv {command}{needed} [--config FILE] [--field value …]", ""]
    lines += [*textwrap.wrap(about, width), ""]
    shown = [Flag("config", "file", "", "YAML recipe; flags override its fields.")]
    shown += [flag for flag in known.values() if everything or "." not in flag.name]
    for flag in shown:
        lines += _entry(flag, width)
    if not everything:
        groups: dict[str, int] = {}
        for name in known:
            if "." in name:
                groups[name.rsplit(".", 1)[0]] = groups.get(name.rsplit(".", 1)[0], 0) + 1
        if groups:
            lines += ["", "Further, listed by --help all:"]
            lines += [f"  --{group}.*  ({count})" for group, count in groups.items()]
    return "\n".join(lines)


def _entry(flag: Flag, width: int) -> list[str]:
    head = f"  {flag.name.upper()}" if flag.needed else f"  --{flag.name} {flag.kind}".rstrip()
    text = flag.help + (f" [{flag.default}]" if flag.default else "")
    if width >= 80 and len(head) <= 28:
        first, *rest = textwrap.wrap(text, width - 30) or [""]
        return [f"{head:<30}{first}".rstrip(), *(" " * 30 + line for line in rest)]
    return [head, *(" " * 6 + line for line in textwrap.wrap(text, width - 6))]


def refuse_unknown(command: str, words: Sequence[str]) -> None:
    """Refuse flags and fields of recipes that the command does not have, with what was probably meant.

    Raises:
        ConfigError: Names the flag; or the recipe's file, line and field, or what is wrong with its YAML.
    """
    known = flags_of(command)
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, inline, value = word.partition("=")
        if flag == "--config":
            _check_recipe(command, value if inline else following)
        elif flag.startswith("--") and flag != "--" and not _has(known, flag[2:].rstrip("+")):
            raise ConfigError(f"there is no {flag}{closest(flag, [f'--{name}' for name in known])}")


def _has(known: dict[str, Flag], name: str) -> bool:
    """Whether it is a flag, a group of flags, or inside of one that holds names and values."""
    if name in known or name in ("config", "print_config") or any(each.startswith(f"{name}.") for each in known):
        return True
    return any(name.startswith(f"{flag.name}.") and "value" in flag.kind for flag in known.values())


def _check_recipe(command: str, given: str) -> None:
    import yaml

    file = Path(given)
    is_text = "\n" in given or ": " in given  # a recipe that was rewritten with new names
    if not is_text and not file.is_file():
        beside = [str(each) for each in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise ConfigError(f"`--config {file}`: there is no such file{closest(str(file), beside)}")
    where = "" if is_text else f"{file}:"
    try:
        root = yaml.compose(given if is_text else file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"`--config {file}`: not a text in UTF-8 ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where or 'the recipe:'} not valid YAML: {' '.join(str(error).split())}") from error
    known = flags_of(command)
    for name, line in _fields(root):
        if not _has(known, name):
            place = f"{where}{line}: " if where else ""
            raise ConfigError(f"{place}textenv {command} has no field {name}{closest(name, known)}")


def _fields(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The dotted names of a recipe's fields with their lines, groups before what they hold."""
    for key, value in getattr(node, "value", ()) if type(node).__name__ == "MappingNode" else ():
        name = f"{prefix}{getattr(key, 'value', key)}"
        yield name, key.start_mark.line + 1
        yield from _fields(value, f"{name}.")


def with_lists(command: str, words: Sequence[str]) -> list[str]:
    """Arguments in which ``--tasks a b`` is the list that ``--tasks [a, b]`` is."""
    known, made, rest = flags_of(command), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        flag, inline, value = word.partition("=")
        listed = known.get(flag[2:]) if flag.startswith("--") else None
        if listed is None or not listed.many:
            made.append(word)
            continue
        given = [value] if inline else []
        while not inline and rest and not rest[0].startswith("--"):
            given.append(rest.pop(0))
        plain = len(given) != 1 or (not given[0].startswith(("[", "{")) and given[0] != "null")
        numbers = listed.kind.startswith(("number", "whole"))
        as_list = f"[{', '.join(each if numbers else json.dumps(each) for each in given)}]"
        made += [flag, as_list] if plain and given else [word, *given][: 1 + (not inline) * len(given)]
    return made


def in_words(command: str, message: str) -> str:
    """A parser's message as people say it."""
    known = flags_of(command)
    wrong = re.search(r'[Pp]arser key "([\w.]+)":', message)
    if wrong is not None and wrong[1] in known:
        got = re.search(r"(?:Got value|Given value): (.*?)(?: \(|$)", message)
        flag = known[wrong[1]]
        value = got[1] if got else ""
        meant = closest(value, flag.kind.split("|")) if "|" in flag.kind else ""
        kind = flag.kind if "|" in flag.kind else f"a {flag.kind}"
        return f"`--{flag.name}` takes {kind}, got {value or 'something else'}{meant}"
    return message
