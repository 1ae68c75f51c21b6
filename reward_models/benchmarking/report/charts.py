"""The charts of the page: accuracy by gap, reliability, dots with whiskers, histograms, and optimisation paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from textenv.report.drawing.charts import Judge, accuracy_chart
from textenv.report.drawing.svg import CHARACTER_WIDTH, Axis, Frame, clip_text, label, spread

from reward_models.benchmarking.report.tables import Figure, interval, shown

_LEAST_PAIRS = 10  # a point of fewer says nothing
_GAPS = ("0", "0.5", "1", "2")


def gap_chart(
    models: Mapping[str, Mapping[str, Figure]],
    colors: Mapping[str, str],
    rater: Mapping[str, Figure] | None,
    ceiling: Mapping[str, Figure] | None,
) -> str:
    """Accuracy against the gap of the mean ratings, with the single rater and the ceiling.

    Args:
        models: Model → gap → figure.
        colors: Model → CSS variable.
        rater: Gap → figure of a single rater.
        ceiling: Gap → figure of the true values.
    """
    people = {"one rater": rater, "ceiling": ceiling}
    judges = [_judge(clip_text(name, 16), colors[name], found) for name, found in models.items()]
    judges += [_judge(name, name.removeprefix("one "), found) for name, found in people.items() if found is not None]
    some = next(iter(models.values()))
    gaps = [gap for gap in _GAPS if (some.get(gap) or {}).get("n")]
    counts = [int(some[gap]["n"]) for gap in gaps]
    kept = [Judge(j.name, j.color, j.accuracy[: len(gaps)], j.intervals[: len(gaps)]) for j in judges]
    return accuracy_chart([f"> {gap}" for gap in gaps], counts, kept)


def _judge(name: str, color: str, found: Mapping[str, Figure]) -> Judge:
    figures = [found.get(gap) for gap in _GAPS]
    ends = [(f["low"], f["high"]) if f and f["low"] is not None else None for f in figures]
    return Judge(name, color, [f["value"] if f else None for f in figures], ends)


def reliability_chart(bins: Mapping[str, Sequence[Mapping[str, Any]]], colors: Mapping[str, str]) -> str:
    """Share of raters on the predicted side against the predicted probability; the diagonal is calibrated.

    Args:
        bins: Model → bins as `ReliabilityBin` in JSON.
        colors: Model → CSS variable.
    """
    kept = [row["agreement"] for rows in bins.values() for row in rows if row["pairs"] >= _LEAST_PAIRS]
    everything = [found[end] for found in kept for end in ("value", "low", "high") if found[end] is not None]
    y = Axis.around(everything, include=[0.5, 1.0], count=5, tight=True)
    x = Axis(0.5, 1.0, tuple((v, f"{v:.1f}") for v in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)))
    frame = Frame(x=x, y=y, width=440, height=320, right=18)
    ends = [float(frame.px(0.5)), float(frame.px(1.0)), float(frame.py(0.5)), float(frame.py(1.0))]
    parts = [frame.axes("predicted probability of the preferred side", "share of people on that side")]
    parts.append(
        f'<line class="diagonal" x1="{ends[0]:.1f}" y1="{ends[2]:.1f}" x2="{ends[1]:.1f}" y2="{ends[3]:.1f}"/>'
    )
    for name, rows in bins.items():
        points = [(row["confidence"], row["agreement"]) for row in rows if row["pairs"] >= _LEAST_PAIRS]
        line = " ".join(f"{float(frame.px(a)):.1f},{float(frame.py(f['value'])):.1f}" for a, f in points)
        marks = "".join(
            _whisker_up(frame, a, f, f"{name}: says {a:.3f}, people {f['value']:.3f} of {f['n']:,} pairs")
            for a, f in points
        )
        parts.append(
            f'<g class="line joined whiskers" style="--c:var(--{colors[name]})"><polyline points="{line}"/>{marks}</g>'
        )
    return frame.svg("".join(parts), "Reliability: predicted against observed preference", nearest="none")


def _whisker_up(frame: Frame, x: float, found: Figure, tip: str) -> str:
    px, py = float(frame.px(x)), float(frame.py(found["value"]))
    line = ""
    if found["low"] is not None:
        low, high = float(frame.py(found["low"])), float(frame.py(found["high"]))
        line = f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    return f'<g tabindex="0" data-tip="{escape(tip)}">{line}<circle cx="{px:.1f}" cy="{py:.1f}" r="3.4"/></g>'


def dot_chart(
    rows: Sequence[tuple[str, Figure | None, str]],
    *,
    x_label: str,
    share: bool = True,
    reference: float | None = 0.0,
    digits: int = 1,
) -> str:
    """Figures as dots with whiskers, one row each, the value written at the right.

    Args:
        rows: Name, figure and CSS variable of each row.
        x_label: What the figures are.
        share: Whether they are shares, shown as percentages.
        reference: Where a vertical line stands; None draws none.
        digits: Decimals of the written values.
    """
    known = [found[end] for _, found, _ in rows if found for end in ("value", "low", "high") if found[end] is not None]
    scale = 100.0 if share else 1.0
    include = [] if reference is None else [scale * reference]
    longest = max((len(name) for name, _, _ in rows), default=4)
    frame = Frame(
        x=Axis.around([scale * value for value in known], include=include, count=5),
        y=Axis(0, max(1, len(rows)), ()),
        height=30 + 23 * len(rows) + 24,
        left=min(24, longest) * CHARACTER_WIDTH * 0.94 + 12,
        right=64,
        top=8,
        bottom=40,
    )
    floor = frame.height - frame.bottom
    parts = [frame.axes(x_label, "", grid=False)]
    parts += [
        f'<line class="grid" x1="{float(frame.px(v)):.1f}" x2="{float(frame.px(v)):.1f}" y1="{frame.top}" '
        f'y2="{floor:.1f}"/>'
        for v, _ in frame.x.marks
    ]
    if reference is not None:
        at = float(frame.px(scale * reference))
        parts.append(f'<line class="base" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.top}" y2="{floor:.1f}"/>')
    for index, (name, found, color) in enumerate(rows):
        y = float(frame.py(len(rows) - index - 0.5))
        parts.append(label(frame.left - 10, y + 4, clip_text(name, 24), "tick", "end"))
        if found is None or found["value"] is None:
            parts.append(label(frame.width - frame.right + 10, y + 4, "–", "tick"))
            continue
        words = shown(found, digits=digits, share=share, signed=not share)
        tip = f"{name}: {words} {interval(found, digits=digits, share=share)}"
        px = float(frame.px(scale * found["value"]))
        line = ""
        if found["low"] is not None:
            ends = frame.px([scale * found["low"], scale * found["high"]])
            line = f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        parts.append(
            f'<g class="whiskers" style="--c:var(--{color})" tabindex="0" data-tip="{escape(tip)}">{line}'
            f'<circle cx="{px:.1f}" cy="{y:.1f}" r="4.2"/></g>'
        )
        parts.append(label(frame.width - frame.right + 10, y + 4, words, "direct", color=color))
    return frame.svg("".join(parts), x_label, nearest="none")


def histogram(found: Mapping[str, Any], name: str, color: str) -> str:
    """Distribution of one model's scores, small."""
    edges, counts = np.array(found["edges"], float), np.array(found["counts"], float)
    share = 100 * counts / max(counts.sum(), 1)
    frame = Frame(
        x=Axis.around(edges, tight=True, count=4),
        y=Axis.around(share, include=[0.0], count=3, tight=True),
        width=300,
        height=130,
        top=20,
        bottom=34,
        left=34,
    )
    xs, ys = np.repeat(frame.px(edges), 2)[1:-1], np.repeat(frame.py(share), 2)
    outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
    floor = frame.height - frame.bottom
    area = f"{xs[0]:.1f},{floor:.1f} {outline} {xs[-1]:.1f},{floor:.1f}"
    marks = f'<g class="hist" style="--c:var(--{color})"><polygon points="{area}"/><polyline points="{outline}"/></g>'
    return frame.svg(frame.axes("score", "% of responses") + marks, f"Distribution of the scores of {name}")


@dataclass(frozen=True)
class PathLine:
    """One curve of a path chart.

    Attributes:
        name: Its label.
        color: CSS variable.
        x: Horizontal values, shape ``(K,)``.
        y: Vertical values, shape ``(K,)``.
        low: Lower end of the band, shape ``(K,)``.
        high: Upper end, shape ``(K,)``.
        tips: What a point says, K of them.
        fit: Points of a fitted form, or None.
        dotted: Drawn dotted, as a proxy's own opinion.
    """

    name: str
    color: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    tips: Sequence[str]
    fit: Sequence[tuple[float, float]] | None = None
    dotted: bool = False


def path_chart(lines: Sequence[PathLine], *, x_label: str, y_label: str, description: str) -> str:
    """Curves with bands over √KL (or anything else), a fitted form dashed, each named at its end.

    Args:
        lines: The curves.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        description: For readers who cannot see it.
    """
    names = [clip_text(line.name, 20) for line in lines]
    right = max(len(name) for name in names) * CHARACTER_WIDTH + 16
    ys = np.concatenate([line.y for line in lines] + [line.low for line in lines] + [line.high for line in lines])
    xs = np.concatenate([line.x for line in lines])
    frame = Frame(
        x=Axis.around(xs, tight=True, count=6),
        y=Axis.around(ys, include=[0.0], count=6),
        width=560,
        height=330,
        right=right,
    )
    parts = [frame.axes(x_label, y_label)]
    zero = float(frame.py(0))
    parts.append(
        f'<line class="base" x1="{frame.left}" x2="{frame.width - right:.1f}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    )
    for line in lines:
        px = frame.px(line.x)
        upper = [f"{a:.1f},{b:.1f}" for a, b in zip(px, frame.py(line.high), strict=True)]
        lower = [f"{a:.1f},{b:.1f}" for a, b in zip(px, frame.py(line.low), strict=True)]
        parts.append(
            f'<polygon class="band" style="--c:var(--{line.color})" points="{" ".join(upper + lower[::-1])}"/>'
        )
    for line in lines:
        points = [f"{float(a):.1f},{float(b):.1f}" for a, b in zip(frame.px(line.x), frame.py(line.y), strict=True)]
        dots = "".join(
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" tabindex="0" data-tip="{escape(tip)}"/>'
            for p, tip in zip(points, line.tips, strict=True)
        )
        dash = ' stroke-dasharray="1 5"' if line.dotted else ""
        parts.append(
            f'<g class="line" style="--c:var(--{line.color})"><polyline points="{" ".join(points)}"{dash}/>{dots}</g>'
        )
        if line.fit is not None:
            fitted = " ".join(
                f"{float(frame.px(a)):.1f},{float(frame.py(b)):.1f}"
                for a, b in line.fit
                if frame.y.low <= b <= frame.y.high
            )
            parts.append(f'<polyline class="fit" style="--c:var(--{line.color})" points="{fitted}"/>')
    heights = spread([float(frame.py(line.y[-1])) for line in lines], 14, frame.top, frame.height - frame.bottom)
    for name, line, height in zip(names, lines, heights, strict=True):
        parts.append(label(frame.width - right + 9, height + 4, name, "direct", color=line.color))
    return frame.svg("".join(parts), description, nearest="none")
