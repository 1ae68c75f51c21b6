"""The examples of the environment's pages and docstrings give what they say."""

import doctest
from pathlib import Path

import pytest

import textenv.envs.toy

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize(("page", "least"), [("mdp.md", 10), ("wrappers.md", 5)])
def test_examples_on_the_pages_hold(page: str, least: int):
    result = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert result.attempted > least
    assert result.failed == 0


def test_example_of_the_toy_module_holds():
    result = doctest.testmod(textenv.envs.toy)
    assert result.attempted > 0
    assert result.failed == 0
