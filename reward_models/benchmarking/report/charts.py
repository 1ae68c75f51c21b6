"""The charts of the page: accuracy by gap, reliability, dots with whiskers, histograms, and optimisation paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reward_models.benchmarking.overoptimization.fits import value_of
from textenv.pages.charts import Axis, Line, clip_text, grouped_chart, histogram_chart, plot, share_points
from textenv.pages.numbers import Figure, between, shown

_LEAST_PAIRS = 10  # a point of fewer says nothing
_GAPS = ("0", "0.5", "1", "2")


def gap_chart(suite: Mapping[str, Any], models: Mapping[str, Any], colors: Mapping[str, str]) -> Markup:
    """Accuracy against the gap of the mean ratings, with the single rater and the ceiling.

    Args:
        suite: A suite of pairs of rated texts.
        models: Model → accuracy, of those that are drawn.
        colors: Model → colour's name.
    """
    some = next(iter(models.values()))["by_gap"]
    gaps = [gap for gap in _GAPS if (some.get(gap) or {}).get("n")]
    people = {"one rater": ("rater", "rater"), "ceiling": ("ceiling", "perfect")}
    drawn = [(clip_text(name, 16), colors[name], found["by_gap"]) for name, found in models.items()]
    drawn += [(title, color, suite["ceiling"][key]) for title, (color, key) in people.items() if suite["ceiling"]]
    names = [f"> {gap}" for gap in gaps]
    sizes = [f"\n{some[gap]['n']:,}{' pairs' if place == 0 else ''}" for place, gap in enumerate(gaps)]
    return grouped_chart(
        [share_points(title, color, [found.get(gap) for gap in gaps], names) for title, color, found in drawn],
        [name + size for name, size in zip(names, sizes, strict=True)],
        titles=("mean human ratings of the two texts differ by", "share of pairs ranked as the humans do"),
        description="Accuracy of the reward models on held-out pairs",
    )


def reliability_chart(bins: Mapping[str, Sequence[Mapping[str, Any]]], colors: Mapping[str, str]) -> Markup:
    """Share of raters on the predicted side against the predicted probability; the diagonal is calibrated.

    Args:
        bins: Model → bins as `ReliabilityBin` in JSON.
        colors: Model → colour's name.
    """
    lines = []
    for name, rows in bins.items():
        points = [(row["confidence"], row["agreement"]) for row in rows if row["pairs"] >= _LEAST_PAIRS]
        tips = [f"{name}: says {x:.3f}, people {f['value']:.3f} of {f['n']:,} pairs" for x, f in points]
        value, low, high = _arrays([found for _, found in points])
        x = np.array([confidence for confidence, _ in points], float)
        lines.append(Line(name, colors[name], x, value, look="joined", dots=3.4, low=low, high=high, tips=tips))
    everything = np.concatenate([end for line in lines for end in (line.y, line.low, line.high) if end is not None])
    return plot(
        lines,
        Axis(0.5, 1.0, tuple((v, f"{v:.1f}") for v in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))),
        Axis.around(everything, include=[0.5, 1.0], count=5, tight=True),
        titles=("predicted probability of the preferred side", "share of people on that side"),
        description="Reliability: predicted against observed preference",
        rules=[("diagonal", [0.5, 1.0], [0.5, 1.0])],
        nearest="none",
        frame={"height": 320, "right": 18},
    )


def _arrays(figures: Sequence[Figure]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Values and ends of figures, NaN where there is none."""
    value, low, high = (np.array([found[end] for found in figures], float) for end in ("value", "low", "high"))
    return value, low, high


def share_axis(figures: Sequence[Figure | None], reference: float) -> Axis:
    """An axis for shares that are shown in percent, with a value that it reaches in any case."""
    known = [found[end] for found in figures if found for end in ("value", "low", "high") if found[end] is not None]
    axis = Axis.around(100 * np.array(known, float), include=[100 * reference], count=5)
    return Axis(axis.low / 100, axis.high / 100, tuple((value / 100, label) for value, label in axis.marks))


def score_histogram(found: Mapping[str, Any], name: str, color: str) -> Markup:
    """Distribution of one model's scores, small."""
    edges, counts = np.array(found["edges"], float), np.array(found["counts"], float)
    bins = [(name, color, counts / max(counts.sum(), 1), None)]
    frame = {"width": 300, "height": 130, "top": 20, "bottom": 34, "left": 34, "right": 14}
    description = f"Distribution of the scores of {name}"
    return histogram_chart(bins, edges, titles=("score", "% of responses"), description=description, frame=frame)


def path_charts(curves: Mapping[str, Any], colors: Mapping[str, str]) -> list[tuple[str, str, Markup]]:
    """Gold against √KL, proxy against √KL, gold against proxy: a title, a remark and the chart of each."""
    gold = [_path(name, curve, colors[name], "gold") for name, curve in curves.items()]
    proxy = [_path(name, curve, colors[name], "proxy") for name, curve in curves.items()]
    both = [replace(g, x=p.y) for g, p in zip(gold, proxy, strict=True)]
    fits = [_fit(curve, line) for curve, line in zip(curves.values(), gold, strict=True) if curve["fit"] is not None]
    distance, worth, said = "√KL, √nats per answer", "gold, sd of the start", "proxy, sd of the start"
    return [
        _path_chart(
            "Gold: what the answers are worth", gold, fits, (distance, worth), "Dashed: the fitted form. Bands: 95 %."
        ),
        _path_chart("Proxy: what the model says of them", proxy, [], (distance, said), ""),
        _path_chart("Gold against proxy", both, [], (said, worth), "To the right the model is more and more content."),
    ]


def _path(name: str, curve: Mapping[str, Any], color: str, field: str) -> Line:
    figures = curve[field]
    value, low, high = _arrays(figures)
    step = "n" if curve["method"] == "best_of_n" else "episodes"
    tips = [
        f"{name}, {step} = {n:,}: {field} {shown(f, 2, share=False)} {between(f, 2, share=False)} at {kl:.2f} nats"
        for n, f, kl in zip(curve["steps"], figures, curve["kl"], strict=True)
    ]
    low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
    x, label = np.sqrt(np.maximum(np.array(curve["kl"], float), 0)), clip_text(name, 20)
    return Line(name, color, x, value, dots=3.0, low=low, high=high, band=True, tips=tips, label=label)


def _fit(curve: Mapping[str, Any], line: Line) -> Line:
    """The fitted form beside what was measured."""
    x = np.linspace(0, float(line.x.max()), 80)
    alpha, beta = curve["fit"]["alpha"]["value"], curve["fit"]["beta"]["value"]
    y = line.y[0] + value_of(x, alpha, beta, curve["fit"]["form"])
    return Line(line.name, line.color, x, y, look="dashed")


def _path_chart(
    title: str, lines: Sequence[Line], fits: Sequence[Line], titles: tuple[str, str], note: str
) -> tuple[str, str, Markup]:
    x = Axis.around(np.concatenate([line.x for line in lines]), tight=True, count=6)
    ends = [end for line in lines for end in (line.y, line.low, line.high) if end is not None]
    y = Axis.around(np.concatenate(ends), include=[0.0], count=6)
    inside = [(line, (line.y >= y.low) & (line.y <= y.high)) for line in fits]
    fits = [replace(line, x=line.x[keep], y=line.y[keep]) for line, keep in inside if keep.any()]
    rules = [("base", [x.low, x.high], [0.0, 0.0])]
    frame = {"width": 560, "height": 330}
    chart = plot([*lines, *fits], x, y, titles=titles, description=title, rules=rules, nearest="none", frame=frame)
    return title, note, chart
