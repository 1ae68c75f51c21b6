"""What the sections of a run's page show: charts, and figures for its tables.

Each function takes the run's record; what it returns is laid out by its macro in ``templates/run_sections.html``, which
says what is missing where there is nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from textenv.pages.charts import (
    WIDE,
    Axis,
    Line,
    Note,
    grouped_chart,
    histogram_chart,
    plot,
    share_points,
    small_chart,
    training_chart,
    training_curve,
)
from textenv.pages.numbers import Figure, fixed, percent, short
from textenv.report.headline import POLICY_FIGURES, policy_number, sample_rewards
from textenv.report.run_folder import (
    MODEL_TITLES,
    MODELS,
    STAGE_TITLES,
    RunRecord,
    Series,
    against,
    cumulative,
    interval,
    lookup,
    number,
)

GAPS = {
    "accuracy": "all pairs",
    "accuracy_gap_0_5": "> 0.5",
    "accuracy_gap_1": "> 1",
    "accuracy_gap_2": "> 2",
}
"""Names of the accuracies in the summary to the names of the groups of pairs on the page."""

JUDGES = {
    "human_rater": ("human rater", "human"),
    "reward_model": ("reward model", "rm"),
    "tfidf": ("TF-IDF", "tfidf"),
    "lexicon": ("VADER", "lexicon"),
}
"""Names of the judges in the summary to their titles and colours."""

DIAGNOSTICS = (
    ("objective/kl_coef", "KL coefficient", "{} per nat"),
    ("objective/entropy", "Entropy", "{} nats per token"),
    ("val/explained_variance", "Explained variance", "{} of 1"),
    ("policy/approx_kl", "Approximate KL", "{} nats per token"),
    ("policy/clip_fraction", "Clip fraction", "{%} of tokens"),
    ("loss/value", "Value loss", "{}"),
    ("rollout/response_tokens", "Response length", "{} tokens"),
    ("rollout/truncated_fraction", "Cut at the limit", "{%} of answers"),
    ("time/tokens_per_second", "Speed", "{} tokens per second"),
)
"""PPO's small charts: metric, title, and how its last value is written (``{%}``: as a percentage)."""

_TIMES = {
    "data": ("Data", "base"),
    "pretrain": ("Pre-training", "base"),
    "sft": ("Fine-tuning", "sft"),
    "reward": ("Reward model", "rm"),
    "ppo": ("PPO", "ppo"),
    "evaluate": ("Evaluation", "base"),
}
_PPO_TIMES = {
    "time/rollout_seconds": "generating answers",
    "time/reward_seconds": "scoring them",
    "time/scoring_seconds": "log-probs and values",
    "time/update_seconds": "updating the policy",
}


class Chart(NamedTuple):
    """A chart with its title, a remark beside the title and one below."""

    title: str
    side: str
    drawing: Markup
    note: str = ""


def _curve(name: str, series: Series | None, color: str, held_out: bool = True) -> list[Line]:
    return [] if series is None else [training_curve(name, color, series.steps, series.values, held_out=held_out)]


def _episodes(run: RunRecord, series: Series | None) -> Series | None:
    """A PPO series over generated episodes instead of iterations, where the run counted them."""
    return None if series is None else against(series, run.series("ppo", "rollout/episodes"))


def _episode_label(run: RunRecord) -> str:
    return "episodes" if run.series("ppo", "rollout/episodes") is not None else "iteration"


def learning(run: RunRecord) -> list[Chart]:
    """Learning curves of the four stages."""
    charts = [
        _pretraining(run),
        _stage(run, "sft", "loss on the answer", "nats per token", "loss", "sft"),
        _stage(run, "reward", "Bradley-Terry loss", "nats per pair", "loss", "rm"),
        _stage(run, "reward", "accuracy", "share of pairs ranked as the humans do", "accuracy", "rm"),
        _ppo(run, "reward per answer", "reward (score)", "score", "higher is better"),
        _ppo(run, "distance from the SFT model", "KL, nats per answer", "kl", "the price of it"),
    ]
    return [chart for chart in charts if chart is not None]


def _pretraining(run: RunRecord) -> Chart | None:
    metrics = run.metrics.get("pretrain", {})
    tasks = sorted(name.removeprefix("eval/loss/") for name in metrics if name.startswith("eval/loss/"))
    lines = _curve("train", metrics.get("train/loss"), "base", held_out=False)
    if not tasks:
        lines += _curve("held-out", metrics.get("eval/loss"), "base")
    perplexities = []
    for i, task in enumerate(tasks):
        title = task.replace("_", " ")
        lines += _curve(title, metrics[f"eval/loss/{task}"], f"task{i % 4 + 1}")
        perplexity = number(run.summary, "pretrain", "perplexity", task)
        if perplexity is None and (series := metrics.get(f"eval/perplexity/{task}")) is not None:
            perplexity = float(series.values[-1])
        if perplexity is not None:
            perplexities.append(f"{title} {short(perplexity)}")
    if not lines:
        return None
    drawing = training_chart(lines, titles=("step", "nats per token"), description="Pre-training loss per task")
    note = f"Held-out perplexity at the end: {', '.join(perplexities)}." if perplexities else ""
    return Chart("Pre-training: loss per task", "lower is better", drawing, note)


def _stage(run: RunRecord, stage: str, title: str, unit: str, name: str, color: str) -> Chart | None:
    lines = _curve("train", run.series(stage, f"train/{name}"), color, held_out=False)
    lines += _curve("held-out", run.series(stage, f"eval/{name}"), color)
    if not lines:
        return None
    title = f"{STAGE_TITLES[stage]}: {title}"
    direction = "higher is better" if name == "accuracy" else "lower is better"
    return Chart(title, direction, training_chart(lines, titles=("step", unit), description=title))


def _ppo(run: RunRecord, title: str, unit: str, name: str, side: str) -> Chart | None:
    lines = _curve("rollouts", _episodes(run, run.series("ppo", f"objective/{name}")), "ppo", held_out=False)
    lines += _curve("held-out", _episodes(run, run.series("ppo", f"eval/{name}")), "ppo")
    if not lines:
        return None
    drawing = training_chart(lines, titles=(_episode_label(run), unit), description=f"PPO: {title}")
    return Chart(f"PPO: {title}", side, drawing)


def _paired(run: RunRecord, prefix: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """KL and score of the iterations that recorded both, in their order, or None."""
    kl, score = run.series("ppo", f"{prefix}/kl"), run.series("ppo", f"{prefix}/score")
    if kl is None or score is None:
        return None
    _, at_kl, at_score = np.intersect1d(kl.steps, score.steps, assume_unique=True, return_indices=True)
    return (kl.values[at_kl], score.values[at_score]) if len(at_kl) else None


class Measured(NamedTuple):
    """A final measurement on the test prompts: KL in nats per answer, mean reward and its interval (or None)."""

    model: str
    kl: float
    reward: float
    interval: tuple[float, float] | None


def reward_kl(run: RunRecord) -> tuple[Markup | None, bool]:
    """The chart of reward against KL, and whether it holds final measurements."""
    path, held_out = _paired(run, "objective"), _paired(run, "eval")
    finals = []
    for model in ("sft", "ppo"):
        reward, kl = policy_number(run, model, "reward_mean"), policy_number(run, model, "kl")
        kl = 0.0 if model == "sft" and kl is None else kl
        if reward is not None and kl is not None:
            finals.append(Measured(model, kl, reward, interval(run.summary, "policy", model, "reward_mean_interval")))
    return (None if path is None and held_out is None else reward_kl_chart(path, held_out, finals)), bool(finals)


def reward_kl_chart(
    path: tuple[NDArray, NDArray] | None, held_out: tuple[NDArray, NDArray] | None, finals: Sequence[Measured]
) -> Markup:
    """The way of PPO: reward against KL to the SFT model, with start, end and the final held-out measurements.

    Args:
        path: KL and reward of training rollouts, one point per iteration; later points are stronger.
        held_out: Those of the held-out evaluations during training.
        finals: The measurements on the test prompts.
    """
    lines, notes = [], []
    if path is not None:
        lines.append(training_curve("training rollouts", "ppo", *path, held_out=False, labelled=False))
        x, y = lines[0].x, lines[0].y
        lines.append(Line("", "ppo", x, y, look="none", dots=2.6, fading=True))
    if held_out is not None:
        lines.append(replace(training_curve("held-out", "ppo", *held_out), label=""))
    told = held_out or path
    if told is not None and len(told[0]) > 1:
        kl, reward = told
        notes.append(Note(kl[0], reward[0], "start", 8, 17, "ppo"))
        notes.append(Note(kl[-1], reward[-1], "end of training", 0, 48, "ppo", "middle", "leader"))
    measured = [(final.reward, *(final.interval or ())) for final in finals]
    distances = np.concatenate([*(line.x for line in lines), [final.kl for final in finals]])
    x_axis = Axis.around(distances, include=[0.0], count=6)
    x_axis = Axis(x_axis.low - 0.03 * (x_axis.high - x_axis.low), x_axis.high, x_axis.marks)  # room for the mark at 0
    y_axis = Axis.around(np.concatenate([*(line.y for line in lines), *measured]), count=5, pad=0.08)
    for final in finals:
        title, place = MODEL_TITLES[final.model], f"{fixed(final.reward)} at {fixed(final.kl, 1)} nats"
        tip = f"{title} on the test prompts: reward {place}"
        low, high = final.interval or (np.nan, np.nan)
        if final.interval is not None:
            tip += f", 95% interval {fixed(low)} to {fixed(high)}"
        x, y, ends = np.array([final.kl]), np.array([final.reward]), (np.array([low]), np.array([high]))
        lines.append(
            Line(title, final.model, x, y, look="none", dots=5.5, low=ends[0], high=ends[1], ring=True, tips=[tip])
        )
        anchor, dx = ("end", -10) if x_axis.share(final.kl) > 0.45 else ("start", 10)
        notes.append(Note(final.kl, final.reward, f"{title}, test: {place}", dx, -9, anchor=anchor))
    return plot(
        lines,
        x_axis,
        y_axis,
        titles=("KL to the SFT model, nats per answer", "reward (score)"),
        description="Reward against KL to the SFT model over the course of PPO",
        notes=notes,
        nearest="xy",
        say="reward {y} at {x} nats",
        frame={"width": WIDE, "height": 300, "right": 20},
    )


def judges(run: RunRecord) -> tuple[Any, ...]:
    """Accuracy of the reward model beside a human rater, TF-IDF and the lexicon: chart, note, groups and figures."""
    figures: dict[str, list[Figure | None]] = {}
    for name in JUDGES:
        measured = [_accuracy(run, name, gap) for gap in GAPS]
        if any(measured):
            figures[name] = measured
    sizes = [
        next((n for name in JUDGES if (n := number(run.summary, name, "pairs", g)) is not None), None) for g in GAPS
    ]
    groups = list(GAPS.values())
    pairs = ["" if n is None else f"\n{n:,.0f}{' pairs' if i == 0 else ''}" for i, n in enumerate(sizes)]
    lines = [share_points(*JUDGES[name], each, groups) for name, each in figures.items()]
    chart = None
    if lines:
        chart = grouped_chart(
            lines,
            [group + size for group, size in zip(groups, pairs, strict=True)],
            titles=("mean human ratings of the two texts differ by", "share of pairs ranked as the humans do"),
            description="Accuracy of the reward model and its baselines on held-out pairs",
        )
    trunk = lookup(run.summary, "reward_model", "trunk")
    note = f"Trunk of the reward model: {trunk}." if isinstance(trunk, str) else ""
    note += " These ratings come from the built-in generator: the human rater is simulated." if run.simulated else ""
    return chart, note, groups, [(*JUDGES[name], each) for name, each in figures.items()]


def _accuracy(run: RunRecord, name: str, gap: str) -> Figure | None:
    value = number(run.summary, name, gap)
    low, high = interval(run.summary, name, "intervals", gap) or (None, None)
    return None if value is None else {"value": value, "low": low, "high": high}


def distribution(run: RunRecord) -> tuple[Any, ...]:
    """Histograms of the rewards, the number of prompts, and the table of the three policies: titles and rows."""
    rewards = {model: values for model in MODELS if len(values := sample_rewards(run, model))}
    models = [m for m in MODELS if lookup(run.summary, "policy", m) is not None or m in rewards]
    rows = []
    for title, key, words in POLICY_FIGURES:
        bounds = [interval(run.summary, "policy", model, f"{key}_interval") for model in models]
        ends = [f"{fixed(pair[0])} to {fixed(pair[1])}" if pair else "" for pair in bounds]
        values = [words(policy_number(run, model, key)) for model in models]
        rows.append((title, list(zip(values, ends, strict=True))))
    chart = reward_histogram(rewards) if rewards else None
    heads = [(MODEL_TITLES[model], model) for model in models]
    return chart, max(map(len, rewards.values()), default=0), heads, rows


def reward_histogram(rewards: Mapping[str, NDArray[np.float64]]) -> Markup:
    """Overlaid histograms of the rewards per model, with the mean of each marked.

    Args:
        rewards: Model name (base, sft, ppo) to its finite rewards, shape ``(n,)`` with n ≥ 1.
    """
    pooled = np.concatenate(list(rewards.values()))
    low, high = (float(v) for v in np.quantile(pooled, [0.002, 0.998]))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, int(np.clip(1.5 * np.sqrt(len(pooled) / len(rewards)), 8, 40)) + 1)
    shares = {model: np.histogram(np.clip(v, low, high), edges)[0] / len(v) for model, v in rewards.items()}
    bins = [(MODEL_TITLES[model], model, share, float(rewards[model].mean())) for model, share in shares.items()]
    description = "Distribution of the rewards of the answers of each model"
    return histogram_chart(
        bins, edges, titles=("reward of one answer", "% of answers per bin"), description=description
    )


def diagnostics(run: RunRecord) -> tuple[str, list[Chart]]:
    """Lead and small charts of PPO's inner state."""
    charts = []
    for key, title, form in DIAGNOSTICS:
        series = _episodes(run, run.series("ppo", key))
        if series is not None:
            last = float(series.values[-1])
            line = training_curve(title, "ppo", series.steps, series.values, most=120, labelled=False)
            drawing = small_chart(line, description=title)
            charts.append(Chart(title, form.replace("{%}", percent(last, 1)).replace("{}", short(last)), drawing))
    clock = run.series("ppo", "rollout/episodes")
    total = f", {short(float(cumulative(clock).values[-1]))} in all" if clock is not None else ""
    return f"Over {_episode_label(run)}{total}; beside each title its last value.", charts


def times(run: RunRecord) -> list[tuple[str, float | None, list[tuple[str, str, float]]]]:
    """Seconds per stage and, for PPO, of its parts: a title, the total, and rows of name, colour and seconds."""
    seconds = lookup(run.summary, "seconds")
    known = {str(name): v for name in seconds if (v := number(seconds, name)) is not None} if _mapping(seconds) else {}
    total = known.pop("total", None) or sum(known.values())
    stages = [name for name in _TIMES if name in known] + [name for name in known if name not in _TIMES]
    rows = [(*_TIMES.get(name, (name, "base")), known[name]) for name in stages]
    parts = [(title, run.series("ppo", key)) for key, title in _PPO_TIMES.items()]
    inside = [(title, "ppo", float(series.values.sum())) for title, series in parts if series is not None]
    return [each for each in (("Stages", total, rows), ("Inside PPO", None, inside)) if each[2]]


def checks(run: RunRecord) -> list[tuple[str, str, str]]:
    """The checks that the run made of itself: CSS class (good, bad, plain), detail and name of each."""
    made = lookup(run.summary, "checks")
    names = made.items() if _mapping(made) else ()
    return [(*_verdict(value), str(name).replace("_", " ").replace("/", ": ")) for name, value in names]


def _verdict(value: Any) -> tuple[str, str]:
    """CSS class and detail of one check, which is a boolean, a value, or an object with ``passed`` and more."""
    if isinstance(value, bool):
        return ("good", "") if value else ("bad", "")
    if _mapping(value):
        passed = next((value[key] for key in ("passed", "ok") if isinstance(value.get(key), bool)), None)
        rest = ", ".join(f"{k} {_words(v)}" for k, v in value.items() if k not in ("passed", "ok"))
        return "plain" if passed is None else "good" if passed else "bad", rest
    return "plain", _words(value)


def _words(value: Any) -> str:
    value_number = number({"v": value}, "v")
    return str(value) if value_number is None else short(value_number)


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
