"""Instructions as a tree: known elements only, whatever the Markdown says."""

import pytest

from textenv.feedback.pages.guide import DEFAULTS, guide
from textenv.feedback.store import KINDS


def tags(nodes):
    for node in nodes:
        if isinstance(node, dict):
            yield node["tag"]
            yield from tags(node["children"])


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("plain", [{"tag": "p", "children": ["plain"]}]),
        ("# Title", [{"tag": "h3", "children": ["Title"]}]),
        ("###### Deep", [{"tag": "h6", "children": ["Deep"]}]),
        ("a\nb", [{"tag": "p", "children": ["a", " ", "b"]}]),
        ("`x < y`", [{"tag": "p", "children": [{"tag": "code", "children": ["x < y"]}]}]),
        ("```py\n<b>\n```", [{"tag": "pre", "children": ["<b>\n"]}]),
        (
            "[a](https://example.org/?a=1&b=2)",
            [{"tag": "p", "children": [{"tag": "a", "href": "https://example.org/?a=1&b=2", "children": ["a"]}]}],
        ),
        (
            "2. two",
            [
                {
                    "tag": "ol",
                    "children": [{"tag": "li", "children": [{"tag": "p", "children": ["two"]}]}],
                    "start": 2,
                }
            ],
        ),
        ("", []),
    ],
)
def test_guide_turns_markdown_into_elements(text, tree):
    assert guide(text) == tree


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "a <img src=x onerror=alert(1)> b", "<div onclick='x()'>\n\nx\n\n</div>"]
)
def test_guide_keeps_html_as_text(text):
    tree = guide(text)
    assert set(tags(tree)) == {"p"}
    assert "<" in str(tree)


@pytest.mark.parametrize(
    "text",
    ["[a](javascript:alert(1))", "[a](data:text/html,x)", "[a](//example.org)", "[a](/label)", "[a](vbscript:x)"],
)
def test_guide_makes_no_link_that_leads_elsewhere_than_web_or_mail(text):
    assert "a" not in set(tags(guide(text)))


def test_guide_shows_a_picture_as_its_description():
    assert guide("![a cat](https://example.org/cat.png)") == [{"tag": "p", "children": ["a cat"]}]


def test_guide_reads_tables():
    found = guide("| a | b |\n|---|---|\n| 1 | 2 |")
    assert list(tags(found)) == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


def test_every_kind_has_instructions():
    assert set(DEFAULTS) == set(KINDS)
