"""Instructions in Markdown, as a small tree that a page can build elements from without ever parsing markup.

CommonMark and tables, read by markdown-it. HTML inside is text like any other, links lead to the web or to a mailbox
only, and pictures are their descriptions: a page loads nothing from elsewhere.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

Node = str | dict[str, Any]
"""A text, or an element: ``{"tag", "children"}``, links with ``"href"``, ordered lists with ``"start"``."""

_TAGS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "hr": "hr",
    "hardbreak": "br",
    "strong": "strong",
    "em": "em",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}
_SCHEMES = ("http", "https", "mailto")
_LEAVES = {"text": "", "code_inline": "code", "code_block": "pre", "fence": "pre"}
_READER = MarkdownIt("commonmark", {"html": False}).enable("table")

DEFAULTS = {
    "demonstrate": "Write the answer that you would like to get. Be **correct, helpful and brief**; if the prompt asks "
    "for something harmful, say politely why you do not help.",
    "rate": "Read the prompt, then the answer, and say how good the answer is **as an answer to this prompt**. Judge "
    "what it says before how it says it; longer is not better.",
    "rank": "Put the answers in order, **best first**. Answers that are equally good share a place. Judge what they "
    "say before how they say it; longer is not better.",
    "compare": "Say which answer is better, and **by how much**. Where neither is acceptable, say so too: *both are "
    "bad* goes together with any choice.",
}
"""Shown with items that bring no instructions of their own, by kind."""


def guide(text: str) -> list[Node]:
    """The tree of a Markdown text.

    Example:
        >>> guide("be *brief*")
        [{'tag': 'p', 'children': ['be ', {'tag': 'em', 'children': ['brief']}]}]
    """
    return _children(SyntaxTreeNode(_READER.parse(text)))


def _children(node: SyntaxTreeNode) -> list[Node]:
    return [part for child in node.children for part in _nodes(child)]


def _nodes(node: SyntaxTreeNode) -> list[Node]:
    if node.type in _LEAVES:
        tag = _LEAVES[node.type]
        return [{"tag": tag, "children": [node.content]}] if tag else [node.content]
    if node.type == "softbreak":
        return [" "]
    if node.type == "image":
        return [node.content]
    if node.type == "heading":
        # The page has headings of its own above these.
        return [{"tag": f"h{min(6, int(node.tag[1]) + 2)}", "children": _children(node)}]
    if node.type == "link":
        href = str(node.attrs.get("href", ""))
        if urlsplit(href).scheme in _SCHEMES:
            return [{"tag": "a", "href": href, "children": _children(node)}]
    if node.type not in _TAGS:
        return _children(node) if node.children else [node.content] if node.content else []
    found: dict[str, Any] = {"tag": _TAGS[node.type], "children": _children(node)}
    if "start" in node.attrs:
        found["start"] = int(node.attrs["start"])
    return [found]
