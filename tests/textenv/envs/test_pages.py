"""The examples of the environment's pages and docstrings give what they say."""

import doctest
from pathlib import Path

import textenv.envs.toy

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_examples_on_the_mdp_page_hold():
    result = doctest.testfile(str(DOCS / "mdp.md"), module_relative=False, encoding="utf-8")
    assert result.attempted > 10
    assert result.failed == 0


def test_example_of_the_toy_module_holds():
    result = doctest.testmod(textenv.envs.toy)
    assert result.attempted > 0
    assert result.failed == 0
