"""Writes ``flags.json``, what :mod:`textenv.cli.flags` reads, from the commands' configurations.

python -m textenv.cli.flags_file
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from textenv.cli.flags import FILE, Flag
from textenv.cli.main import COMMANDS, Command, parser_of


def described(command: str) -> list[Flag]:
    """A command's flags from its configuration, which imports all that it needs; those of its own come first."""
    skipped = {"help", "config", "print_config"}
    actions = [action for action in parser_of(command)._actions if action.dest not in skipped]
    own = vars(Command.named(command).config).get("__annotations__", {})
    actions.sort(key=lambda action: ("." in action.dest, action.dest not in own))
    return [
        Flag(
            action.dest,
            _kind(getattr(action, "_typehint", None) or action.type or str, action.choices)
            if action.nargs != 0
            else "",
            _shown(action.default) if action.nargs != 0 else "",
            " ".join((action.help or "").replace("``", "").replace("`", "").split()),
            _is_list(getattr(action, "_typehint", None)),
            not action.option_strings,
        )
        for action in actions
        if type(action).__name__ != "_ActionConfigLoad"  # a whole stage from a file of its own
    ]


def _kind(hint: Any, choices: Any = None) -> str:
    """A type in words."""
    if choices:
        return "|".join(map(str, choices))
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("none" if each is type(None) else _kind(each) for each in inside))
    if _is_list(hint):
        return f"{_kind(inside[0]) if inside else 'text'} …"
    if origin is dict or hint is dict:
        return "name: value"
    words = {int: "whole number", float: "number", bool: "true|false", str: "text", Path: "path"}
    return words.get(hint, "text")


def _is_list(hint: Any) -> bool:
    inside = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        return all(_is_list(each) for each in inside)
    return get_origin(hint) in (list, tuple, set) or getattr(get_origin(hint), "__name__", "") == "Sequence"


def _shown(default: Any) -> str:
    if default is None or default in ("==SUPPRESS==", "", [], ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (list, tuple)):
        return " ".join(map(str, default))
    return str(default)


def main() -> None:
    """Write the file."""
    lines = (f"  {json.dumps(name)}: {_rows(described(name))}" for name in COMMANDS)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _rows(flags: list[Flag]) -> str:
    return "[\n" + ",\n".join(f"    {json.dumps(list(flag), ensure_ascii=False)}" for flag in flags) + "\n  ]"


if __name__ == "__main__":
    main()
