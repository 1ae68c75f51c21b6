"""A small chart kit: axes, lines, points and labels as inline SVG that takes its colours from the page.

Every mark names a CSS variable (``--sft``, ``--ppo``, ...) and none a colour, so one drawing serves the light and the
dark page. Texts are escaped here and nowhere else. Deliberately left out: anything that needs a layout engine; the
width of a label is estimated from its length.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.report.numbers import short, tick_labels, ticks

CHARACTER_WIDTH = 7.0
"""Width to keep for one label character, in drawing units: labels are 11.5 units high, 13 on a phone."""


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        low: Data value at the left or lower end.
        high: Data value at the right or upper end.
        marks: Pairs of data value and label.
    """

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]

    @staticmethod
    def around(
        values: ArrayLike, *, count: int = 4, include: Sequence[float] = (), tight: bool = False, pad: float = 0.04
    ) -> "Axis":
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

    def px(self, values: ArrayLike) -> NDArray[np.float64]:
        """Horizontal drawing positions of data values."""
        share = (np.asarray(values, dtype=np.float64) - self.x.low) / (self.x.high - self.x.low)
        return self.left + share * (self.width - self.left - self.right)

    def py(self, values: ArrayLike) -> NDArray[np.float64]:
        """Vertical drawing positions of data values."""
        share = (np.asarray(values, dtype=np.float64) - self.y.low) / (self.y.high - self.y.low)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def axes(self, x_label: str, y_label: str, *, grid: bool = True) -> str:
        """Grid lines, tick labels, the base line and the two axis titles (the vertical one lies above the plot)."""
        floor, end = self.height - self.bottom, self.width - self.right
        parts = [label(0, 12, y_label, "axis-title")] if y_label else []
        for value, name in self.y.marks:
            y = float(self.py(value))
            if grid:
                parts.append(f'<line class="grid" x1="{self.left}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(label(self.left - 6, y + 4, name, "tick", "end"))
        for value, name in self.x.marks:
            parts.append(label(float(self.px(value)), floor + 15, name, "tick", "middle"))
        parts.append(f'<line class="base" x1="{self.left}" x2="{end:.1f}" y1="{floor:.1f}" y2="{floor:.1f}"/>')
        if x_label:
            parts.append(label(end, self.height - 4, x_label, "axis-title", "end"))
        return "".join(parts)

    def svg(self, content: str, description: str, *, nearest: str = "x") -> str:
        """The finished drawing.

        Args:
            content: The marks.
            description: What the chart shows, for readers who cannot see it.
            nearest: Whether the tooltip follows the pointer along "x", or to the nearest point in "xy".
        """
        return (
            f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" role="img" data-nearest="{nearest}" '
            f'aria-label="{escape(description)}">{content}</svg>'
        )


def label(x: float, y: float, content: str, kind: str, anchor: str = "start", color: str = "") -> str:
    """One escaped text at a drawing position; ``kind`` is its CSS class, ``color`` a CSS variable's name."""
    style = f' style="--c:var(--{color})"' if color else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


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


def polyline(
    frame: Frame, x: NDArray, y: NDArray, name: str, color: str, kind: str = "line", dots: bool = False
) -> str:
    """A line through data points, with what the tooltip needs: its name and the values as people read them."""
    xs, ys = frame.px(x), frame.py(y)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
    tips = json.dumps([[short(float(a)), short(float(b))] for a, b in zip(x, y, strict=True)], ensure_ascii=False)
    circles = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in zip(xs, ys, strict=True))
    return (
        f'<g class="{kind}" style="--c:var(--{color})"><polyline points="{points}" data-name="{escape(name)}" '
        f'data-tips="{escape(tips)}"/>{circles if dots or len(x) == 1 else ""}</g>'
    )
