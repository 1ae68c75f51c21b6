"""`write_figure`: reward and KL over the course of PPO as a PNG, for a README or a talk; several runs are seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from textenv.errors import DataError
from textenv.pages.numbers import fixed
from textenv.report.run_folder import RunRecord, Series, against, read_run

_CLOCKS = (("rollout/tokens", "generated tokens"), ("rollout/episodes", "episodes"), (None, "PPO iterations"))
_PANELS = (("objective/score", "Reward", 2), ("objective/kl", "KL to the SFT model, nats per answer", 1))
_COLOR = "#cf6a0c"
INK, SOFT = "#1c1f24", "#6b7280"
"""Colours of text in figures: strong and faint."""


def write_figure(run_dirs: Path | Sequence[Path], path_png: Path, *, title: str = "") -> Path:
    """Draw reward and KL of the training rollouts against the tokens (else episodes, else iterations) of PPO.

    Several runs are drawn as thin lines with their mean, which ends where the shortest run ends.

    Args:
        run_dirs: One run folder, or the folders of several seeds.
        path_png: Where to write; its folder must exist.
        title: A line above the panels.

    Returns:
        ``path_png``.

    Raises:
        CheckpointError: If a folder is no run folder.
        DataError: If no folder is given, or a run has no record of PPO's score and KL.
    """
    folders = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if not folders:
        raise DataError("`run_dirs` is empty; name at least one run folder.")
    runs = [read_run(Path(folder)) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        missing = [name for name, _, _ in _PANELS if run.series("ppo", name) is None]
        if missing:
            raise DataError(f"{Path(folder) / 'metrics.jsonl'} has no `{missing[0]}` of stage ppo; run PPO first.")
    figure = Figure(figsize=(9.6, 3.5), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    clock, x_label = _clock(runs)
    for position, (name, y_label, digits) in enumerate(_PANELS, start=1):
        curves = [_curve(run, name, clock) for run in runs]
        _panel(figure.add_subplot(1, 2, position), curves, x_label, y_label, digits)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    figure.savefig(path_png, metadata={"Software": None})
    return Path(path_png)


def _clock(runs: Sequence[RunRecord]) -> tuple[str | None, str]:
    """The first of tokens, episodes and iterations that every run recorded, with its axis label."""
    return next(
        (name, title)
        for name, title in _CLOCKS
        if name is None or all(run.series("ppo", name) is not None for run in runs)
    )


def _curve(run: RunRecord, name: str, clock: str | None) -> Series:
    series = run.series("ppo", name)
    assert series is not None  # write_figure has checked it
    return against(series, run.series("ppo", clock) if clock else None)


def _panel(axes: Axes, curves: Sequence[Series], x_label: str, y_label: str, digits: int) -> None:
    several = len(curves) > 1
    for curve in curves:
        axes.plot(
            curve.steps, curve.values, color=_COLOR, linewidth=0.9 if several else 1.8, alpha=0.4 if several else 1
        )
    x, y = curves[0].steps, curves[0].values
    if several:
        x = np.linspace(max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves), 200)
        y = np.mean([np.interp(x, c.steps, c.values) for c in curves], axis=0)
        axes.plot(x, y, color=_COLOR, linewidth=2.2)
    axes.set_title(
        y_label + (f" ({len(curves)} seeds and their mean)" if several else ""), loc="left", fontsize=10, color=INK
    )
    last = axes.annotate(fixed(float(y[-1]), digits), (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center")
    last.set(color=_COLOR, fontsize=10, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=9, color=SOFT)
    axes.set_xlim(left=0, right=max(float(curve.steps[-1]) for curve in curves))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}")
    style_axes(axes)


def style_axes(axes: Axes) -> None:
    """The look of all figures: a quiet grid, no frame but the ground line."""
    axes.tick_params(colors=SOFT, labelsize=8.5, length=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9ca3af")
