"""The charts of a report, each a function from plain numbers to inline SVG.

Colours mean the same on the whole page: base grey, SFT blue, PPO orange, human green, reward model violet. A thin pale
line is a training value, a full line with dots a held-out one. Which numbers are drawn is decided in the sections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from numpy.typing import NDArray

from textenv.report.drawing.svg import CHARACTER_WIDTH, Axis, Frame, clip_text, label, polyline, spread, thin
from textenv.report.numbers import fixed, percent, short
from textenv.report.records import MODEL_TITLES

WIDE = 460
"""Width of the larger charts in drawing units; much more would make their texts too small on a phone."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: Its direct label.
        x: Horizontal values, shape ``(n,)`` with n ≥ 1.
        y: Vertical values, shape ``(n,)``.
        color: Name of a CSS variable without its dashes.
        held_out: Drawn strongly with dots, as a held-out value; otherwise pale, as a training value.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    color: str
    held_out: bool = True


def learning_chart(curves: Sequence[Curve], *, x_label: str, y_label: str, description: str) -> str:
    """Curves over training time with a direct label (name and last value) at the right end of each."""
    names = [clip_text(curve.name, 18) for curve in curves]
    longest = max(len(f"{name} {short(float(c.y[-1]))}") for name, c in zip(names, curves, strict=True))
    thinned = [thin(curve.x, curve.y) for curve in curves]
    frame = Frame(
        x=Axis.around(np.concatenate([x for x, _ in thinned]), include=[0.0], tight=True),
        y=Axis.around(np.concatenate([y for _, y in thinned])),
        right=longest * CHARACTER_WIDTH + 12,
    )
    parts = [frame.axes(x_label, y_label)]
    order = sorted(range(len(curves)), key=lambda i: curves[i].held_out)  # pale lines lie below
    for i in order:
        curve, (x, y) = curves[i], thinned[i]
        dots = curve.held_out and len(x) <= 40
        kind = "line" if curve.held_out else "line pale"
        parts.append(polyline(frame, x, y, curve.name, curve.color, kind, dots))
    ends = [float(frame.py(y[-1])) for _, y in thinned]
    heights = spread(ends, 14, frame.top, frame.height - frame.bottom - 5)
    for curve, name, height, (_, y) in zip(curves, names, heights, thinned, strict=True):
        content = f"{name} {short(float(y[-1]))}"
        parts.append(label(frame.width - frame.right + 8, height + 4, content, "direct", color=curve.color))
    return frame.svg("".join(parts), description)


def small_chart(curve: Curve, *, description: str) -> str:
    """One curve in a small frame: a multiple in a grid of diagnostics."""
    x, y = thin(curve.x, curve.y, 120)
    frame = Frame(
        x=Axis.around(x, include=[0.0], tight=True, count=3),
        y=Axis.around(y, count=3),
        width=300,
        height=124,
        top=8,
        bottom=22,
    )
    line = polyline(frame, x, y, curve.name, curve.color)
    return frame.svg(frame.axes("", "") + line, description)


@dataclass(frozen=True)
class Held:
    """A final held-out measurement: KL in nats per answer, mean reward and the reward's interval (or None)."""

    name: str
    color: str
    kl: float
    reward: float
    interval: tuple[float, float] | None


def reward_kl_chart(path: Curve | None, held_out: Curve | None, finals: Sequence[Held]) -> str:
    """The way of PPO: reward against KL to the SFT model, with start, end and the final held-out measurements.

    Args:
        path: Training rollouts, one point per iteration; later points are stronger.
        held_out: The held-out evaluations during training.
        finals: The measurements on the test prompts.
    """
    curves = [curve for curve in (path, held_out) if curve is not None]
    xs = np.concatenate([*(c.x for c in curves), [final.kl for final in finals]])
    ys = np.concatenate([*(c.y for c in curves), *([f.reward, *(f.interval or ())] for f in finals)])
    x_axis = Axis.around(xs, include=[0.0], count=6)
    frame = Frame(
        x=replace(x_axis, low=x_axis.low - 0.03 * (x_axis.high - x_axis.low)),  # room for the mark at 0
        y=Axis.around(ys, count=5, pad=0.08),
        width=WIDE,
        height=300,
        right=20,
    )
    parts = [frame.axes("KL to the SFT model, nats per answer", "reward (score)")]
    if path is not None:
        x, y = thin(path.x, path.y)
        parts.append(polyline(frame, x, y, "training rollouts", path.color, "line pale"))
        for i, (a, b) in enumerate(zip(frame.px(x), frame.py(y), strict=True)):
            opacity = 0.15 + 0.6 * i / max(len(x) - 1, 1)
            parts.append(
                f'<circle class="dot" style="--c:var(--{path.color})" opacity="{opacity:.2f}" '
                f'cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>'
            )
    if held_out is not None:
        x, y = thin(held_out.x, held_out.y)
        parts.append(polyline(frame, x, y, "held-out", held_out.color, dots=True))
    parts.append(_ends(frame, held_out or path))
    parts.extend(_final_mark(frame, final) for final in finals)
    return frame.svg("".join(parts), "Reward against KL to the SFT model over the course of PPO", nearest="xy")


def _ends(frame: Frame, curve: Curve | None) -> str:
    """The words "start" and "end of training", below the ends of the path and clear of it."""
    if curve is None or len(curve.x) < 2:
        return ""
    x, y = frame.px(curve.x[[0, -1]]), frame.py(curve.y[[0, -1]])
    low = frame.height - frame.bottom - 6
    parts = [label(float(x[0]) + 8, min(float(y[0]) + 17, low), "start", "direct", color=curve.color)]
    below = min(float(y[1]) + 48, low)
    parts.append(f'<line class="leader" x1="{x[1]:.1f}" x2="{x[1]:.1f}" y1="{y[1] + 5:.1f}" y2="{below - 11:.1f}"/>')
    middle = min(float(x[1]), frame.width - frame.right - 40)
    parts.append(label(middle, below, "end of training", "direct", "middle", curve.color))
    return "".join(parts)


def _final_mark(frame: Frame, final: Held) -> str:
    x, y = float(frame.px(final.kl)), float(frame.py(final.reward))
    whisker = ""
    tip = f"{final.name} on the test prompts: reward {fixed(final.reward)} at {fixed(final.kl, 1)} nats"
    if final.interval is not None:
        low, high = frame.py(final.interval)
        whisker = f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        tip += f", 95% interval {fixed(final.interval[0])} to {fixed(final.interval[1])}"
    anchor, shift = ("end", -10) if x > frame.width * 0.5 else ("start", 10)
    content = f"{final.name}, test: {fixed(final.reward)} at {fixed(final.kl, 1)} nats"
    return (
        f'<g class="final" style="--c:var(--{final.color})" tabindex="0" data-tip="{escape(tip)}">{whisker}'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/></g>' + label(x + shift, y - 9, content, "direct strong", anchor)
    )


@dataclass(frozen=True)
class Judge:
    """Accuracy of one judge of texts on held-out pairs.

    Attributes:
        name: Its direct label.
        color: Name of a CSS variable.
        accuracy: Accuracy per pair group; None where not measured.
        intervals: 95% bootstrap interval per pair group, or None.
    """

    name: str
    color: str
    accuracy: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None]


def accuracy_chart(
    groups: Sequence[str],
    counts: Sequence[int | None],
    judges: Sequence[Judge],
    *,
    titles: tuple[str, str] = (
        "mean human ratings of the two texts differ by",
        "share of pairs ranked as the humans do",
    ),
    description: str = "Accuracy of the reward model and its baselines on held-out pairs",
    level: float = 0.5,
    width: int = WIDE,
    joined: bool = True,
) -> str:
    """Accuracy of each judge per group of pairs: dots with bootstrap whiskers, joined, labelled at the right.

    Args:
        groups: Names of the pair groups, easiest last.
        counts: Number of pairs per group, or None.
        judges: At least one, each with one accuracy per group.
        titles: What the groups are, and what the accuracy is a share of.
        description: For those who do not see the chart.
        level: Accuracy that the axis shows in any case, such as that of chance.
        width: Of the drawing; more where there are many groups.
        joined: Whether lines join a judge's dots: only where the groups have an order.
    """
    known = [v for judge in judges for v in judge.accuracy if v is not None]
    known += [end for judge in judges for pair in judge.intervals if pair for end in pair]
    longest = max(len(judge.name) for judge in judges) + 5
    marks = tuple(enumerate(groups))
    y = Axis.around(known, include=[level], count=5, tight=True)
    frame = Frame(
        x=Axis(-0.4, len(groups) - 0.6, tuple((float(i), name) for i, name in marks)),
        y=y,
        width=width,
        height=300,
        right=longest * CHARACTER_WIDTH + 14,
        bottom=52,
    )
    parts = [frame.axes(*titles)]
    for i, count in enumerate(counts):
        if count is not None:
            parts.append(
                label(
                    float(frame.px(i)),
                    frame.height - 22,
                    f"{count:,} pairs" if i == 0 else f"{count:,}",
                    "tick faint",
                    "middle",
                )
            )
    ends: list[tuple[float, Judge, float]] = []
    for k, judge in enumerate(judges):
        shift = (k - (len(judges) - 1) / 2) * 0.07
        parts.append(_judge_marks(frame, groups, judge, shift, joined=joined))
        last = next((v for v in reversed(judge.accuracy) if v is not None), None)
        if last is not None:
            ends.append((float(frame.py(last)), judge, last))
    heights = spread([end[0] for end in ends], 14, frame.top, frame.height - frame.bottom)
    for (_, judge, last), height in zip(ends, heights, strict=True):
        content = f"{judge.name} {fixed(last)}"
        parts.append(label(frame.width - frame.right + 10, height + 4, content, "direct", color=judge.color))
    return frame.svg("".join(parts), description, nearest="none")


def _judge_marks(frame: Frame, groups: Sequence[str], judge: Judge, shift: float, *, joined: bool) -> str:
    parts, points = [], []
    for i, (name, value, bounds) in enumerate(zip(groups, judge.accuracy, judge.intervals, strict=True)):
        if value is None:
            continue
        x, y = float(frame.px(i + shift)), float(frame.py(value))
        points.append(f"{x:.1f},{y:.1f}")
        tip, whisker = f"{judge.name}, {name}: {percent(value, 1)}", ""
        if bounds is not None:
            low, high = frame.py(bounds)
            whisker = f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            tip += f" (95% interval {percent(bounds[0], 1)} to {percent(bounds[1], 1)})"
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        parts.append(f'<g class="judge" tabindex="0" data-tip="{escape(tip)}">{whisker}{dot}</g>')
    line = f'<polyline points="{" ".join(points)}"/>' if joined and len(points) > 1 else ""
    return f'<g class="line joined" style="--c:var(--{judge.color})">{line}{"".join(parts)}</g>'


def histogram_chart(rewards: dict[str, NDArray[np.float64]]) -> str:
    """Overlaid histograms of the rewards per model, with the mean of each marked.

    Args:
        rewards: Model name (base, sft, ppo) to its finite rewards, shape ``(n,)`` with n ≥ 1.
    """
    pooled = np.concatenate(list(rewards.values()))
    low, high = (float(v) for v in np.quantile(pooled, [0.002, 0.998]))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, int(np.clip(1.5 * np.sqrt(len(pooled) / len(rewards)), 8, 40)) + 1)
    shares = {n: np.histogram(np.clip(v, low, high), edges)[0] / len(v) for n, v in rewards.items()}
    top = 24 + 15 * len(rewards)
    y = Axis.around([100 * s.max() for s in shares.values()], include=[0.0], count=4)
    frame = Frame(x=Axis.around(edges, tight=True, count=6), y=y, width=WIDE, height=300, top=top, right=20)
    parts = [frame.axes("reward of one answer", "% of answers per bin")]
    floor = frame.height - frame.bottom
    for name, share in shares.items():
        xs, ys = np.repeat(frame.px(edges), 2)[1:-1], np.repeat(frame.py(100 * share), 2)
        outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
        area = f"{xs[0]:.1f},{floor:.1f} {outline} {xs[-1]:.1f},{floor:.1f}"
        parts.append(
            f'<g class="hist" style="--c:var(--{name})"><polygon points="{area}"/><polyline points="{outline}"/></g>'
        )
    for row, (name, values) in enumerate(rewards.items()):
        parts.append(_mean_mark(frame, row, name, float(values.mean())))
    return frame.svg("".join(parts), "Distribution of the rewards of the answers of each model", nearest="none")


def _mean_mark(frame: Frame, row: int, name: str, mean: float) -> str:
    x, y = float(frame.px(min(max(mean, frame.x.low), frame.x.high))), 34 + 15 * row
    anchor, shift = ("end", -5) if x > frame.width * 0.7 else ("start", 5)
    line = f'<line class="mean" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9}" y2="{frame.height - frame.bottom:.1f}"/>'
    content = f"{MODEL_TITLES.get(name, name)} mean {fixed(mean)}"
    return f'<g style="--c:var(--{name})">{line}</g>' + label(x + shift, y, content, "direct", anchor, name)
