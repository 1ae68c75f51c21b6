"""The one drawer of charts: inline SVG that takes its colours from the page, from plain numbers.

`plot` draws lines, points, bands and histograms over two axes, with intervals; `whisker`, `scale`, `columns` and
`stacked` are drawings as wide as the page leaves them room, for rows and tables. Marks name a colour by its CSS class
(``c-sft``), so one drawing serves the light and the dark page. Texts are escaped in `element`. Which numbers are drawn
is decided by the pages; deliberately left out is a layout engine: the width of a label is estimated from its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from textenv.pages.numbers import Figure, fixed, percent, short, tick_labels, ticks

CHARACTER_WIDTH = 7.0
"""Width to keep for one label character, in drawing units: labels are 11.5 units high, 13 on a phone."""

WIDE = 460
"""Width of the larger charts in drawing units; much more would make their texts too small on a phone."""


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element of markup; texts and attributes are escaped, numbers are rounded, None leaves an attribute out.

    Args:
        name: Its tag.
        children: Texts, and finished `Markup`.
        attributes: ``data_tip`` stands for ``data-tip``, ``class_`` for ``class``.
    """
    parts = []
    for key, value in attributes.items():
        if value is not None and value != "":
            words = f"{float(value):.1f}".removesuffix(".0") if isinstance(value, float | np.floating) else value
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(words)}"')
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(parts)}>{inside}</{name}>")


def color_class(color: str) -> str:
    """CSS class of a colour's name."""
    return f"c-{color}" if color else ""


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        low: Data value at the left or lower end.
        high: Data value at the right or upper end.
        marks: Pairs of data value and label; a line break starts a fainter second line.
    """

    low: float
    high: float
    marks: tuple[tuple[float, str], ...] = ()

    @staticmethod
    def around(
        values: ArrayLike, *, count: int = 4, include: Sequence[float] = (), tight: bool = False, pad: float = 0.04
    ) -> Axis:
        """An axis that holds all finite ``values`` and ``include``.

        Args:
            values: Data values, any shape.
            count: About how many ticks.
            include: Further values that the axis must reach.
            tight: End at the extreme values instead of leaving a margin.
            pad: That margin, as a share of the range.
        """
        array = np.concatenate([np.ravel(np.asarray(values, dtype=np.float64)), np.asarray(include, dtype=np.float64)])
        array = array[np.isfinite(array)]
        low, high = least, most = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
        # A float cannot tell apart what lies closer together than this, so no ticks would fit between.
        if most - least <= 1e-9 * max(abs(least), abs(most), 1e-30):
            margin = 0.5 * abs(low) or 0.5
            low, high = low - margin, high + margin
        elif not tight:
            low, high = (end + sign * pad * (high - low) for end, sign in ((low, -1), (high, 1)))
            if least >= 0 > low:
                low = 0.0
        places = ticks(low, high, count)
        return Axis(low, high, tuple(zip(places, tick_labels(places), strict=True)))

    def share(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where values lie on it, 0 to 1."""
        return (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """What `plot` draws of one series.

    Attributes:
        name: Said by the tooltip.
        color: A colour's name.
        x: Horizontal values, shape ``(n,)`` with n ≥ 1.
        y: Vertical values, shape ``(n,)``.
        look: How the line is drawn: ``line`` strong, ``pale`` thin as training values are, ``joined`` faint between
            points, ``dashed`` as a fitted form is, ``none`` not at all.
        dots: Radius of the points; 0 draws none.
        low: Lower ends of the intervals, NaN where there is none.
        high: Upper ends.
        band: Whether intervals are one band instead of a whisker each.
        fading: Whether early points are fainter.
        ring: Whether the points are hollow.
        tips: What each point says, which can then be focused; without tips the tooltip follows the pointer.
        label: Written at the right end, at the height of the last value.
    """

    name: str
    color: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    look: str = "line"
    dots: float = 0.0
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    band: bool = False
    fading: bool = False
    ring: bool = False
    tips: Sequence[str] = ()
    label: str = ""


@dataclass(frozen=True)
class Note:
    """A text in a chart: at a place in the data, moved by some drawing units.

    Attributes:
        x: Horizontal data value.
        y: Vertical data value.
        text: What it says.
        dx: Moved to the right.
        dy: Moved down.
        color: A colour's name; empty for that of texts.
        anchor: ``start``, ``middle`` or ``end``.
        rule: Whether a line leads from the place to the text (``leader``) or all the way down (``mean``).
    """

    x: float
    y: float
    text: str
    dx: float = 0.0
    dy: float = 0.0
    color: str = ""
    anchor: str = "start"
    rule: str = ""


@dataclass(frozen=True)
class Frame:
    """The drawing area of a chart: an axis per direction and the margins around the plot, in drawing units."""

    x: Axis
    y: Axis
    width: float = 440
    height: float = 250
    left: float = 44
    right: float = 14
    top: float = 24
    bottom: float = 36

    @property
    def floor(self) -> float:
        """Where the plot ends below."""
        return self.height - self.bottom

    @property
    def end(self) -> float:
        """Where the plot ends on the right."""
        return self.width - self.right

    def px(self, values: ArrayLike) -> NDArray[np.float64]:
        """Horizontal drawing positions of data values."""
        return self.left + self.x.share(values) * (self.end - self.left)

    def py(self, values: ArrayLike) -> NDArray[np.float64]:
        """Vertical drawing positions of data values."""
        return self.floor - self.y.share(values) * (self.floor - self.top)

    def axes(self, x_title: str, y_title: str) -> list[Markup]:
        """Grid lines, tick labels, the base line and the two titles (the vertical one lies above the plot)."""
        parts = [_text(0, 12, y_title, "axis-title")] if y_title else []
        for value, name in self.y.marks:
            y = float(self.py(value))
            parts += [_rule("grid", self.left, self.end, y, y), _text(self.left - 6, y + 4, name, "tick", "end")]
        for value, name in self.x.marks:
            for line, words in enumerate(name.split("\n")):
                kind = "tick faint" if line else "tick"
                parts.append(_text(float(self.px(value)), self.floor + 15 + 15 * line, words, kind, "middle"))
        parts.append(_rule("base", self.left, self.end, self.floor, self.floor))
        if x_title:
            parts.append(_text(self.end, self.height - 4, x_title, "axis-title", "end"))
        return parts


def plot(
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    titles: tuple[str, str] = ("", ""),
    description: str,
    notes: Iterable[Note] = (),
    rules: Iterable[tuple[str, ArrayLike, ArrayLike]] = (),
    nearest: str = "x",
    say: str = "",
    frame: Mapping[str, float] | None = None,
) -> Markup:
    """A chart over two axes.

    Args:
        lines: What is drawn; earlier ones lie below.
        x: The horizontal axis.
        y: The vertical axis.
        titles: Of the two axes.
        description: What the chart shows, for readers who cannot see it.
        notes: Texts inside.
        rules: Straight lines of a CSS class, from two horizontal and two vertical data values.
        nearest: Whether the tooltip follows the pointer along ``x``, or goes to the nearest point (``xy``).
        say: What that point says, with ``{x}`` and ``{y}``.
        frame: Size and margins that differ from those of `Frame`.
    """
    longest = max((len(line.label) for line in lines), default=0)
    margins: dict[str, float] = {"right": longest * CHARACTER_WIDTH + 14} if longest else {}
    if any("\n" in name for _, name in x.marks):
        margins["bottom"] = 52
    area = Frame(x, y, **{**margins, **(frame or {})})
    parts = area.axes(*titles)
    parts += [_rule(kind, *area.px(ends), *area.py(heights)) for kind, ends, heights in rules]
    parts += [_band(area, line) for line in lines if line.band]
    parts += [_drawn(area, line) for line in lines]
    parts += [mark for note in notes for mark in _noted(area, note)]
    named = [line for line in lines if line.label]
    ends = [float(area.py(line.y[-1])) for line in named]
    for line, height in zip(named, spread(ends, 14, area.top, area.floor - 5), strict=True):
        parts.append(_text(area.end + 9, height + 4, line.label, f"direct {color_class(line.color)}"))
    return element(
        "svg",
        *parts,
        class_="chart",
        viewBox=f"0 0 {area.width:g} {area.height:g}",
        role="img",
        aria_label=description,
        data_nearest=nearest,
        data_say=say,
    )


def _text(x: float, y: float, content: str, kind: str, anchor: str = "") -> Markup:
    return element("text", content, class_=kind, x=float(x), y=float(y), text_anchor=anchor)


def _rule(kind: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return element("line", class_=kind, x1=float(x1), x2=float(x2), y1=float(y1), y2=float(y2))


def _points(xs: ArrayLike, ys: ArrayLike) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(np.ravel(xs), np.ravel(ys), strict=True))


def _ends(line: Line) -> NDArray[np.float64]:
    """Lower and upper ends of a line's intervals, shape ``(2, n)``; NaN where there is none."""
    return np.array([np.full(len(line.y), np.nan) if end is None else end for end in (line.low, line.high)], float)


def _band(area: Frame, line: Line) -> Markup:
    low, high = _ends(line)
    xs = area.px(line.x)
    outline = _points([*xs, *xs[::-1]], [*area.py(high), *area.py(low)[::-1]])
    return element("polygon", class_=f"band {color_class(line.color)}", points=outline)


def _drawn(area: Frame, line: Line) -> Markup:
    xs, ys = area.px(line.x), area.py(line.y)
    parts = []
    if line.look != "none" and (len(xs) > 1 or not line.tips):
        values = zip(line.x, line.y, strict=True)
        said = json.dumps([[short(float(a)), short(float(b))] for a, b in values], ensure_ascii=False)
        follows = {} if line.tips or line.look == "dashed" else {"data_name": line.name, "data_tips": said}
        parts.append(element("polyline", points=_points(xs, ys), **follows))
    ends = np.full((2, len(xs)), np.nan) if line.band else area.py(_ends(line))
    radius = line.dots or (2.6 if len(xs) == 1 else 0)
    for place, (px, py) in enumerate(zip(xs, ys, strict=True) if radius else ()):
        low, high = ends[:, place]
        marks = [_rule("whisker", px, px, low, high)] if np.isfinite(low) else []
        opacity = f"{0.15 + 0.6 * place / max(len(xs) - 1, 1):.2f}" if line.fading else None
        marks.append(element("circle", cx=float(px), cy=float(py), r=float(radius), opacity=opacity))
        tip = line.tips[place] if line.tips else None
        parts.append(element("g", *marks, class_="point", tabindex=0, data_tip=tip) if tip else Markup("").join(marks))
    return element("g", *parts, class_=f"{line.look}{' ring' if line.ring else ''} {color_class(line.color)}")


def _noted(area: Frame, note: Note) -> Iterable[Markup]:
    px, py = float(area.px(note.x)), float(area.py(note.y))
    y = min(py + note.dy, area.floor - 6)
    middle = note.anchor == "middle"
    x = min(px, area.end - 40) if middle else px + note.dx
    if note.rule:
        top, bottom = (py + 5, y - 11) if note.rule == "leader" else (y - 9, area.floor)
        yield _rule(f"{note.rule} {color_class(note.color)}", px, px, top, bottom)
    yield _text(x, y, note.text, f"direct {color_class(note.color)}", note.anchor)


def training_curve(
    name: str, color: str, x: NDArray, y: NDArray, *, held_out: bool = True, most: int = 160, labelled: bool = True
) -> Line:
    """A curve over training time: strong with dots where held-out, pale where measured in training, long ones thinned.

    Its label holds its last value.
    """
    x, y = thin(x, y, most)
    label = f"{clip_text(name, 18)} {short(float(y[-1]))}" if labelled else ""
    dots = 2.6 if held_out and labelled and len(x) <= 40 else 0.0
    return Line(name, color, x, y, look="line" if held_out else "pale", dots=dots, label=label)


def training_chart(lines: Sequence[Line], *, titles: tuple[str, str], description: str) -> Markup:
    """Curves over training time with a direct label (name and last value) at the right end of each."""
    x = Axis.around(np.concatenate([line.x for line in lines]), include=[0.0], tight=True)
    y = Axis.around(np.concatenate([line.y for line in lines]))
    drawn = sorted(lines, key=lambda line: line.look != "pale")  # pale lines lie below
    return plot(drawn, x, y, titles=titles, description=description)


def small_chart(line: Line, *, description: str) -> Markup:
    """One curve in a small frame: a multiple in a grid of diagnostics."""
    x, y = Axis.around(line.x, include=[0.0], tight=True, count=3), Axis.around(line.y, count=3)
    return plot([line], x, y, description=description, frame={"width": 300, "height": 124, "top": 8, "bottom": 22})


def share_points(
    name: str, color: str, figures: Sequence[Figure | None], groups: Sequence[str], *, look: str = "joined"
) -> Line:
    """Shares per group as points with whiskers, for `grouped_chart`; groups without a figure have no point."""
    known = [(i, found) for i, found in enumerate(figures) if found is not None and found["value"] is not None]
    tips = []
    for i, found in known:
        tips.append(f"{name}, {groups[i]}: {percent(found['value'], 1)}")
        if found["low"] is not None:
            tips[-1] += f" (95% interval {percent(found['low'], 1)} to {percent(found['high'], 1)})"
    value, low, high = (np.array([found[end] for _, found in known], float) for end in ("value", "low", "high"))
    label = f"{name} {fixed(value[-1])}" if len(value) else ""
    x = np.array([i for i, _ in known], float)
    return Line(name, color, x, value, look=look, dots=4.0, low=low, high=high, tips=tips, label=label)


def grouped_chart(
    lines: Sequence[Line],
    groups: Sequence[str],
    *,
    titles: tuple[str, str],
    description: str,
    level: float = 0.5,
    width: int = WIDE,
) -> Markup:
    """Points of several judges per group, side by side, labelled at the right.

    Args:
        lines: From `share_points`.
        groups: Names of the groups, with a second line such as their sizes.
        titles: What the groups are, and what the figure is.
        description: For those who do not see the chart.
        level: A figure that the axis shows in any case, such as that of chance.
        width: Of the drawing; more where there are many groups.
    """
    values = np.concatenate([part for line in lines for part in (line.y, *_ends(line))])
    shifts = 0.07 * (np.arange(len(lines)) - (len(lines) - 1) / 2)
    drawn = [replace(line, x=line.x + shift) for line, shift in zip(lines, shifts, strict=True) if len(line.x)]
    marks = tuple((float(i), name) for i, name in enumerate(groups))
    x, y = Axis(-0.4, len(groups) - 0.6, marks), Axis.around(values, include=[level], count=5, tight=True)
    # Room for a second line also where no group has one: charts of one row are equally high.
    frame = {"width": width, "height": 300, "bottom": 52}
    return plot(drawn, x, y, titles=titles, description=description, frame=frame, nearest="none")


def histogram_chart(
    bins: Sequence[tuple[str, str, NDArray[np.float64], float | None]],
    edges: NDArray[np.float64],
    *,
    titles: tuple[str, str],
    description: str,
    frame: Mapping[str, float] | None = None,
) -> Markup:
    """Overlaid histograms, with the mean of each marked.

    Args:
        bins: Name, colour, share of each bin, shape ``(n,)``, and mean (or None) of each set.
        edges: Of the bins, shape ``(n + 1,)``, ascending.
        titles: Of the two axes; shares are drawn in percent.
        description: For those who do not see the chart.
        frame: As for `plot`.
    """
    x, y = Axis.around(edges, tight=True, count=6), Axis.around([100 * s.max() for _, _, s, _ in bins], include=[0.0])
    lines, notes = [], []
    for row, (name, color, share, mean) in enumerate(bins):
        xs, ys = np.repeat(edges, 2)[1:-1], np.repeat(100 * share, 2)
        lines.append(Line(name, color, xs, ys, look="outline", low=0 * ys, high=ys, band=True))
        if mean is not None:
            at = min(max(mean, x.low), x.high)
            anchor, dx = ("end", -5) if x.share(at) > 0.67 else ("start", 5)
            notes.append(Note(at, y.high, f"{name} mean {fixed(mean)}", dx, 10 + 15 * row, color, anchor, "mean"))
    top = 24 + 15 * len(notes)
    notes = [replace(note, dy=note.dy - 15 * len(notes)) for note in notes]  # above the plot
    frame = {"width": WIDE, "height": 300, "top": top, "right": 20, **(frame or {})}
    return plot(lines, x, y, titles=titles, description=description, notes=notes, nearest="none", frame=frame)


# --- drawings as wide as there is room --------------------------------------------------------------------------------


def _percent(share: float) -> str:
    """A place across the drawing."""
    return f"{min(100.0, max(0.0, 100 * float(share))):.2f}".rstrip("0").rstrip(".") + "%"


def whisker(
    found: Figure,
    axis: Axis,
    *,
    color: str = "accent",
    mark: float | None = None,
    band: tuple[float, float] | None = None,
    tip: str = "",
) -> Markup:
    """A figure with its interval on an axis, in one row.

    Args:
        found: The figure.
        axis: What it is drawn on; what lies outside is put at the end.
        color: A colour's name.
        mark: A value to compare with.
        band: A wider range, drawn faintly.
        tip: What the row says.
    """
    at = {
        key: _percent(float(axis.share(found[key]))) for key in ("value", "low", "high") if found.get(key) is not None
    }
    places = [_percent(float(axis.share(value))) for value, _ in axis.marks]
    parts = [element("line", class_="grid", x1=place, x2=place, y1=2, y2=22) for place in places]
    if band is not None:
        left, right = (min(1.0, max(0.0, float(end))) for end in axis.share(band))
        parts.append(
            element("rect", class_="band", x=_percent(left), width=_percent(right - left), y=6, height=12, rx=3)
        )
    if mark is not None:
        place = _percent(float(axis.share(mark)))
        parts.append(element("line", class_="mark", x1=place, x2=place, y1=0, y2=24))
    if "low" in at and "high" in at:
        parts.append(element("line", class_="reach", x1=at["low"], x2=at["high"], y1=12, y2=12))
    if "value" in at:
        parts.append(element("circle", cx=at["value"], cy=12, r=5))
    group = {"class_": f"row-chart {color_class(color)}", "height": 24, "role": "img", "aria_label": tip}
    return element("svg", *parts, **group, data_tip=tip)


def scale(axis: Axis) -> Markup:
    """The numbers of an axis, below the rows that share it."""
    texts = []
    for value, name in axis.marks:
        share = float(axis.share(value))
        anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
        texts.append(element("text", name, class_="tick", x=_percent(share), y=12, text_anchor=anchor))
    return element("svg", *texts, class_="row-chart scale", height=16, aria_hidden="true")


def stacked(parts: Sequence[tuple[float, str, str]], *, whole: float | None = None) -> Markup:
    """Parts of a whole side by side in one bar.

    Args:
        parts: Size, colour and name of each.
        whole: What the width stands for; None for the sum of all parts.
    """
    total, begun, drawn = whole or sum(size for size, _, _ in parts) or 1.0, 0.0, []
    for size, color, name in parts:
        if size > 0:
            place = {"x": _percent(begun / total), "width": _percent(size / total), "y": 0, "height": 12}
            drawn.append(element("rect", class_=color_class(color), **place, data_tip=f"{name}: {size:,.0f}"))
            begun += size
    words = ", ".join(f"{size:,.0f} {name}" for size, _, name in parts)
    return element("svg", *drawn, class_="row-chart stacked", height=12, role="img", aria_label=words)


def columns(
    heights: Sequence[float],
    tips: Sequence[str],
    marks: Sequence[tuple[float, str]],
    *,
    unit: str,
    description: str,
    last_open: bool = False,
) -> Markup:
    """Upright bars over time.

    Args:
        heights: At least one.
        tips: What each bar says.
        marks: Places below the bars, counted in bars, with their texts.
        unit: Of the heights.
        description: For those who do not see the chart.
        last_open: Whether the last bar still grows.
    """
    floor, top = 276, 18
    most = _nice(max(*heights, 1.0))
    parts: list[Markup] = []
    for level in (0.0, most / 2, most):
        y = floor - (floor - top) * level / most
        parts.append(element("line", class_="grid", x1="0", x2="100%", y1=y, y2=y))
    parts.append(element("text", f"{most:,.0f} {unit}", class_="tick", x=0, y=top - 6))
    for place, (height, tip) in enumerate(zip(heights, tips, strict=True)):
        size = max(1.5, (floor - top) * height / most) if height > 0 else 0.0
        where = {"x": _percent((place + 0.1) / len(heights)), "width": _percent(0.8 / len(heights))}
        kind = "bar open" if last_open and place == len(heights) - 1 else "bar"
        parts.append(element("rect", class_=kind, **where, y=floor - size, height=size, rx=2, data_tip=tip))
    for at, name in marks:
        share = at / len(heights)
        anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
        x = _percent(share)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=floor, y2=floor + 5))
        parts.append(element("text", name, class_="tick", x=x, y=floor + 18, text_anchor=anchor))
    return element("svg", *parts, class_="row-chart columns", height=300, role="img", aria_label=description)


def _nice(value: float) -> float:
    """The next round number."""
    power = 10.0 ** np.floor(np.log10(value))
    return next(step * power for step in (1, 2, 3, 4, 6, 8, 10) if step * power >= value - 1e-9)


# --- labels and long series -------------------------------------------------------------------------------------------


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until each pair is ``gap`` apart, staying close to where they were and within the bounds.

    Where the bounds are too narrow for all, the gap shrinks.
    """
    if not positions:
        return []
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    order = np.argsort(positions, kind="stable")
    placed = np.clip(np.asarray(positions, dtype=np.float64)[order], low, high)
    for i in range(1, len(placed)):  # upwards: each at least a gap above its lower neighbour
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = high
    for i in range(len(placed) - 1, -1, -1):  # back down from the upper bound
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    result = np.empty(len(placed))
    result[order] = placed
    return [float(value) for value in result]


def clip_text(content: str, most: int) -> str:
    """``content`` with an ellipsis in place of what exceeds ``most`` characters."""
    return content if len(content) <= most else content[: most - 1].rstrip() + "…"


def thin(x: NDArray[np.float64], y: NDArray[np.float64], most: int = 160) -> tuple[NDArray, NDArray]:
    """Average neighbouring points until at most ``most`` are left; short series stay as they are."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(int)
    sizes = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / sizes, np.add.reduceat(y, edges[:-1]) / sizes
