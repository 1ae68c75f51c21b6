"""Pages from templates: nothing unescaped, nothing from elsewhere, and every file is packed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from textenv.pages.page import STATIC, Section, environment, render_alone, render_report

ROOT = Path(__file__).parents[3]
EVIL = "</script><script>alert('x')</script>"


@pytest.mark.parametrize("room", ["textenv", "reward_models", "agents"])
def test_package_data_names_every_file_that_is_no_module(room: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    patterns = settings.get(room, []) + [f"**/{pattern}" for pattern in settings["*"]]  # the star: of every package
    packed = {path for pattern in patterns for path in (ROOT / room).glob(pattern)}
    files = {path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} <= packed


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/**/templates/*.html")), ids=lambda path: path.stem)
def test_templates_are_found_and_compile(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parts[:-2])
    assert environment(package).get_template(path.name) is not None


def test_colours_of_the_page_are_defined_for_light_and_dark() -> None:
    theme = (STATIC / "theme.css").read_text("utf-8")
    light, dark = (
        set(re.findall(r"(--[a-z]+\d*):", part)) for part in theme.split("@media (prefers-color-scheme: dark)")
    )
    assert light - dark <= {"--sans"}
    assert set(re.findall(r"var\((--[a-z]+\d*)\)", theme)) <= light


def page(**values: Any) -> str:
    values = {"title": EVIL, "kicker": EVIL, "headline": EVIL, "footer": EVIL} | values
    sections = [Section("glossary", EVIL, EVIL, ((),))]
    return render_report("textenv.report", "run_sections.html", sections, **values)


def test_every_text_of_a_report_is_escaped() -> None:
    shown = page(opening=EVIL)
    assert EVIL not in shown
    assert shown.count("&lt;/script&gt;") == 2 * 7


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="headlin"):
        environment("textenv.report").from_string("{{ headlin }}").render(headline="x")


def test_control_characters_and_lone_surrogates_are_replaced() -> None:
    assert "a\ufffdb?c" in page(footer="a\x07b\ud800c")


def test_data_for_the_script_cannot_end_it() -> None:
    found = render_alone("textenv.pages", "frame.html", title="t", styles=[], scripts=[], data={"a": EVIL + "\u2028"})
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', found)
    assert json.loads(data) == {"a": EVIL + "\u2028"}
    assert "\u2028" not in data
