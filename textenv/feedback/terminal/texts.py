"""Texts of strangers as a terminal may show them, and the wrapping of lines."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

_JOINERS = "\u200c\u200d"  # Persian and emoji need them
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def harmless(text: str) -> str:
    r"""A text without anything that a terminal obeys or hides: such characters are shown by their symbol or number.

    Control characters become their pictures, so that an escape sequence is read and not carried out; marks that turn
    the direction of writing, invisible characters and halves of surrogate pairs become ``<U+…>``.

    Example:
        >>> harmless("red \x1b[31m and back\r\n\u202eend")
        'red ␛[31m and back\\n<U+202E>end'
    """
    text = text.replace("\r\n", "\n").expandtabs(4)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\n" or character in _JOINERS or unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    return "\u2421" if code == 127 else f"<U+{code:04X}>"


def wrapped(text: Text | str, width: int, *, indent: int = 0) -> list[Text]:
    """Lines of at most ``width`` columns; words that are longer are cut."""
    text = Text(text) if isinstance(text, str) else text
    lines = text.wrap(_PLAIN, max(1, width - indent), overflow="fold", tab_size=4)
    if not indent:
        return list(lines)
    return [Text(" " * indent) + line for line in lines]


def flowing(pieces: Sequence[Text], width: int, gap: str = "   ") -> list[Text]:
    """Pieces side by side, on a new line where the next one does not fit; a piece is torn only if it is too wide."""
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(gap) + piece.cell_len <= width:
            lines[-1] = lines[-1] + Text(gap) + piece
        else:
            lines += wrapped(piece, width)
    return lines


def paragraphs(tree: Sequence[Any]) -> list[Text]:
    """Instructions (a tree of :func:`textenv.feedback.pages.guide.guide`) as paragraphs; nothing is markup any more."""
    found: list[Text] = []
    for node in tree:
        if isinstance(node, str):
            found.append(Text(harmless(node)))
        elif node["tag"] in ("ul", "ol"):
            found.append(_listed(node))
        elif node["tag"] == "hr":
            found.append(Text("─" * 8))
        elif node["tag"] in ("blockquote", "table", "thead", "tbody"):
            found += paragraphs(node["children"])
        elif node["tag"] == "tr":
            found.append(Text(" | ").join(_inline(cell["children"]) for cell in node["children"]))
        else:
            found.append(_inline(node["children"], "bold" if node["tag"] in _HEADINGS else ""))
    return found


def _listed(node: Mapping[str, Any]) -> Text:
    """A list as one paragraph, a line for each of its entries."""
    lines = []
    for number, child in enumerate(node["children"], node.get("start", 1)):
        mark = "• " if node["tag"] == "ul" else f"{number}. "
        lines.append(Text(mark) + Text("\n  ").join(paragraphs(child["children"])))
    return Text("\n").join(lines)


def _inline(children: Sequence[Any], style: str = "") -> Text:
    line = Text(style=style)
    for child in children:
        if isinstance(child, str):
            line.append(harmless(child))
        elif child["tag"] == "br":
            line.append("\n")
        elif child["tag"] in _BLOCKS:
            line.append_text(Text("\n").join(paragraphs([child])))
        else:
            line.append_text(_inline(child["children"], _STYLES.get(child["tag"], "")))
            if "href" in child and child["href"] not in line.plain:
                line.append(f" ({harmless(child['href'])})")
    return line


_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_BLOCKS = ("ul", "ol", "p", "blockquote", "table", "hr", "pre")
_STYLES = {"strong": "bold", "em": "italic", "a": "underline"}
_PLAIN = Console(file=io.StringIO(), width=80)
