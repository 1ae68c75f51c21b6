"""``write_frontier``: reward against KL as a picture, with best-of-n as the curve to beat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from textenv.errors import DataError
from textenv.report.figure import INK, SOFT, style_axes
from textenv.trajectories.estimators.best_of_n import BestOfNCurve
from textenv.trajectories.views.summary import Summary

# Okabe and Ito's palette, told apart by colour-blind people; markers differ too.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#777777")
_MARKERS = "osD^vPX*."


class FrontierPoint(NamedTuple):
    """One policy, or one checkpoint of it.

    Attributes:
        label: Its name in the picture; empty draws none. A series without any label is named in a legend.
        kl: KL to the reference, nats per answer.
        kl_interval: Interval of it.
        score: Mean score.
        score_interval: Interval of it.
        series: Points of one series are joined by a line in order of KL; None stands alone.
    """

    label: str
    kl: float
    kl_interval: tuple[float, float]
    score: float
    score_interval: tuple[float, float]
    series: str | None = None

    @classmethod
    def of(cls, label: str, summary: Summary, *, series: str | None = None) -> FrontierPoint:
        """The point of a set of answers.

        Raises:
            DataError: If it has no scores or no log-probs of a reference.
        """
        kl, score = summary.best_kl, summary.score
        if score is None or summary.score_interval is None:
            raise DataError(f"{label}: the answers have no scores; sample them with a reward model")
        if kl is None and summary.selected_answers:
            raise DataError(
                f"{label}: a method chose the answers, so their log-probs give no KL; make the point yourself, such as "
                "with `best_of_n_kl`"
            )
        if kl is None:
            raise DataError(f"{label}: the answers have no log-probs of a reference; sample them with a reference")
        kl_bounds = kl.interval()[1:3]
        kl_bounds = kl_bounds if np.isfinite(kl_bounds[0]) else (kl.value, kl.value)
        score_bounds = summary.score_interval if np.isfinite(summary.score_interval[0]) else (score.value, score.value)
        return cls(label, kl.value, kl_bounds, score.value, score_bounds, series)


def write_frontier(
    points: Sequence[FrontierPoint],
    path_png: str | Path,
    *,
    best_of_n: BestOfNCurve | None = None,
    title: str = "",
    score_label: str = "score",
) -> Path:
    """Draw points of reward against KL with their intervals.

    Args:
        points: Policies or checkpoints.
        path_png: Where to write; its folder must exist.
        best_of_n: Best-of-n from the reference policy; a dashed line, at the upper bound of its KL.
        title: A line above the picture.
        score_label: What the score is.

    Returns:
        ``path_png``.

    Raises:
        DataError: If there is no point, or one is not finite.
    """
    if not points:
        raise DataError("there is no point to draw; give at least one")
    for point in points:
        if not (np.isfinite(point.kl) and np.isfinite(point.score)):
            raise DataError(f"{point.label}: KL {point.kl} and score {point.score} must be finite to be drawn")
    figure = Figure(figsize=(7.2, 4.6), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if best_of_n is not None:
        _draw_best_of_n(axes, best_of_n)
    _draw_points(axes, points)
    axes.set_xlabel("KL to the reference, nats per answer", fontsize=9, color=SOFT)
    axes.set_title(f"{score_label} (95% intervals)", loc="left", fontsize=10, color=INK)
    style_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    axes.margins(x=0.12, y=0.14)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    figure.savefig(path_png, metadata={"Software": None})
    return Path(path_png)


def _draw_points(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    names = list(dict.fromkeys(point.series or point.label for point in points))
    for number, name in enumerate(names):
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        row = sorted((p for p in points if (p.series or p.label) == name), key=lambda p: p.kl)
        line = {"color": color, "linewidth": 1.4, "alpha": 0.7, "zorder": 2}
        if not any(point.label for point in row):
            line |= {"label": name, "marker": marker, "markersize": 5}
        axes.plot([p.kl for p in row], [p.score for p in row], **line)
        for point in row:
            low, high = point.score_interval
            left, right = point.kl_interval
            axes.plot([point.kl, point.kl], [low, high], color=color, linewidth=1.3, zorder=3)
            axes.plot([left, right], [point.score, point.score], color=color, linewidth=1.3, zorder=3)
            axes.plot([point.kl], [point.score], marker=marker, color=color, markersize=6.5, zorder=4)
            axes.annotate(
                point.label,
                (point.kl, point.score),
                (7, 6),
                textcoords="offset points",
                color=color,
                fontsize=9.5,
                fontweight="bold",
                zorder=5,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )


def _draw_best_of_n(axes: Axes, curve: BestOfNCurve) -> None:
    axes.plot(curve.kl, curve.values, color=SOFT, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
    low, high = np.where(np.isfinite(curve.ends), curve.ends, curve.values)
    axes.fill_between(curve.kl, low, high, color=SOFT, alpha=0.13, linewidth=0)
    for n, kl, value in zip(curve.n, curve.kl, curve.values, strict=True):
        axes.plot([kl], [value], marker="o", markersize=3, color=SOFT, zorder=1)
        if n == 1:  # the policy itself, which has a point of its own
            continue
        last = n == curve.n[-1]
        axes.annotate(
            f"best of {n}" if last else str(n),
            (kl, value),
            (4, -11),
            textcoords="offset points",
            color=SOFT,
            fontsize=8.5,
        )
