"""Makes ``docs/settings.md``, all settings, out of the dataclasses: ``python -m tests.settings_page``.

``tests/test_pages.py`` fails where the page is not what the code says.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from textenv.cli.main import GROUPS, Command
from textenv.settings import field_help, rules

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Every setting

Of each command, by its flags: made from the code by `python -m tests.settings_page`. A recipe (`--config FILE`) nests
the same names, `--ppo.training.kl_coef 0.1` being `ppo: {training: {kl_coef: 0.1}}`. A value outside its range, and a
setting that nothing of what runs would look at, is refused with one line that says so. The types that are linked stand
below, once.
"""


def page() -> str:
    """The text of the page."""
    shared: dict[str, type] = {}
    parts = [HEAD]
    for group, commands in GROUPS.items():
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n")
        for name, (_, about) in commands.items():
            kind = Command.named(name).config
            parts.append(f"\n### textenv {name}\n\n{about[0].upper()}{about[1:]}.\n\n{table(kind, shared)}")
    parts.append("\n## What they share\n")
    done: set[str] = set()
    while waiting := sorted(set(shared) - done):
        for name in waiting:
            kind = shared[name]
            parts.append(f"\n### {name}\n\n{(kind.__doc__ or '').splitlines()[0]}\n\n{table(kind, shared)}")
            done.add(name)
    return "".join(parts)


def table(kind: type, shared: dict[str, type]) -> str:
    """A row for each field; classes of settings inside settings are added to ``shared``."""
    rows = ["| setting | values | default | |\n|---|---|---|---|\n"]
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        inner = settings_in(get_type_hints(kind)[field.name])
        if inner is not None:
            shared[inner.__name__] = inner
        text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", field_help(kind)[field.name]).replace("``", "`")
        cells = (f"`{field.name}`", values(kind, field.name, inner), default(field, inner), text)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(rows)


def settings_in(hint: Any) -> type | None:
    """The class of settings that a field holds, alone or in a list."""
    return next((each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)), None)


def values(kind: type, name: str, inner: type | None) -> str:
    """What a field may be, in a few words."""
    hint = get_type_hints(kind)[name]
    rule = rules(kind).get(name)
    if inner is not None:
        link = f"[{inner.__name__}](#{inner.__name__.lower()})"
        return link if hint is inner else f"list of {link}"
    if rule is not None and rule.choices:
        return ", ".join(f"`{choice}`" for choice in rule.choices) + (", none" if rule.none else "")
    names = [named(each) for each in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))]
    asked = rule.requirement if rule is not None else ""
    return " or ".join(names) + (asked and (f" {asked}" if asked[0] in "≥≤<>" else f", {asked}"))


def named(hint: Any) -> str:
    """A type in a word."""
    words = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "none",
        dict: "mapping",
    }
    if get_origin(hint) in (list, tuple):
        return f"list of {named(get_args(hint)[0])}s"
    return words.get(get_origin(hint) or hint, "any")


def default(field: Field[Any], inner: type | None) -> str:
    """A field's default; of settings inside settings, what differs from their own."""
    if field.default_factory is MISSING and field.default is MISSING:
        return "needed"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if inner is None or not is_dataclass(value):
        return "" if value in ("", None, []) else f"`{json.dumps(value) if isinstance(value, bool) else value}`"
    usual = flat(asdict(inner()))
    return ", ".join(f"`{name}` {got}" for name, got in flat(asdict(value)).items() if usual.get(name) != got)  # pyright: ignore[reportArgumentType]


def flat(nested: dict[str, Any], before: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) and value else {before + name: value}
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
