"""Whatever can be set, and every wrapper, stands in a page that people find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import textenv.wrappers
from tests.settings_page import PAGE, page

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def test_the_page_of_settings_is_what_the_code_says():
    assert PAGE.read_text("utf-8") == page(), "make it again: python -m tests.settings_page"


@pytest.mark.parametrize("name", textenv.wrappers.__all__)
def test_every_wrapper_stands_in_a_page(name: str):
    assert any(re.search(rf"\b{name}\b", text) for text in PAGES.values())


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_every_page_is_linked_from_another(name: str):
    assert any(re.search(rf"\]\((docs/)?{re.escape(name)}", text) for other, text in PAGES.items() if other != name)
