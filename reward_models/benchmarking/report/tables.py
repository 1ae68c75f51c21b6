"""Tables of figures: cells with intervals, shaded cells, sortable tables. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from textenv.pages.numbers import MISSING, fixed

Figure = Mapping[str, Any]
"""A figure as JSON holds it: value, low, high, n."""


def shown(found: Figure | None, *, digits: int = 1, share: bool = True, signed: bool = False) -> str:
    """A figure's value for people, percentages without the sign; a dash where there is none."""
    value = None if found is None else found["value"]
    if value is None:
        return MISSING
    return fixed(100 * value if share else value, digits, signed=signed)


def interval(found: Figure | None, *, digits: int = 1, share: bool = True, signed: bool = False) -> str:
    """A figure's interval in brackets; empty where there is none."""
    if found is None or found["low"] is None or found["high"] is None:
        return ""
    ends = (shown({"value": found[end]}, digits=digits, share=share, signed=signed) for end in ("low", "high"))
    return f"[{', '.join(ends)}]"


def cell(found: Figure | None, *, digits: int = 1, share: bool = True, signed: bool = False, best: bool = False) -> str:
    """A table cell with value and interval, sortable by the value."""
    value = None if found is None else found["value"]
    words = shown(found, digits=digits, share=share, signed=signed)
    words = f"<b>{words}</b>" if best else words
    ends = interval(found, digits=digits, share=share, signed=signed)
    sort = "NaN" if value is None else f"{value:.9g}"
    return f'<td class="n" data-v="{sort}">{words}{f"<small>{ends}</small>" if ends else ""}</td>'


def heat_cell(
    found: Figure | None,
    *,
    low: float,
    high: float,
    digits: int = 1,
    share: bool = True,
    signed: bool = False,
    bad: bool = False,
    mark: str = "",
) -> str:
    """A shaded cell: the further from `low` to `high`, the stronger; `bad` shades in the warning colour."""
    value = None if found is None else found["value"]
    if value is None:
        return f'<td class="heat">{MISSING}</td>'
    strength = 0.42 * min(1.0, max(0.0, (value - low) / (high - low)))
    color = "--cold" if bad else "--hot"
    ends = interval(found, digits=digits, share=share, signed=signed)
    return (
        f'<td class="heat" data-v="{value:.9g}" style="background:rgba(var({color}),{strength:.2f})">'
        f"{shown(found, digits=digits, share=share, signed=signed)}{escape(mark)}"
        f"{f'<small>{ends}</small>' if ends else ''}</td>"
    )


def name_cell(name: str, color: str = "", note: str = "") -> str:
    """The head of a row: a model's name with its colour."""
    key = f'<span class="key" style="--c:var(--{color})"></span>' if color else ""
    return f'<th scope="row">{key}{escape(name)}{f"<small>{escape(note)}</small>" if note else ""}</th>'


def table(heads: Sequence[str], rows: Sequence[str], *, sortable: bool = False, heat: bool = False) -> str:
    """A table from finished rows.

    Args:
        heads: Column heads; the first is that of the rows' names. A line break starts a smaller second line.
        rows: Cells of each row, as HTML.
        sortable: A click on a head sorts.
        heat: Heads of centred cells.
    """
    kind = "heat" if heat else "n"
    cells = []
    for index, head in enumerate(heads):
        first, _, second = head.partition("\n")
        content = escape(first) + (f"<small>{escape(second)}</small>" if second else "")
        cells.append(f'<th scope="col"{f" class={kind!r}" if index else ""}>{content}</th>')
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    name = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{name}><thead><tr>{"".join(cells)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def card(title: str, content: str, note: str = "") -> str:
    """A framed figure with its caption and a remark below."""
    remark = f'<p class="note">{note}</p>' if note else ""
    caption = f"<figcaption><h3>{escape(title)}</h3></figcaption>" if title else ""
    return f'<figure class="card">{caption}{content}{remark}</figure>'


def legend(names: Mapping[str, str]) -> str:
    """Names with their colours."""
    items = "".join(
        f'<span><span class="key" style="--c:var(--{color})"></span>{escape(name)}</span>'
        for name, color in names.items()
    )
    return f'<div class="legend">{items}</div>'
