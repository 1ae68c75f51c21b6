"""The middle of the page: learning curves, reward against KL, judges, distribution of rewards, PPO diagnostics.

Each function takes the run's record and returns the section's HTML; a section without its numbers says what is missing.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

from textenv.report.drawing.charts import (
    Curve,
    Held,
    Judge,
    accuracy_chart,
    histogram_chart,
    learning_chart,
    reward_kl_chart,
    small_chart,
)
from textenv.report.headline import policy_number, sample_rewards
from textenv.report.numbers import fixed, percent, short
from textenv.report.records import (
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


def _figure(title: str, note: str, chart: str, below: str = "") -> str:
    side = f"<span>{escape(note)}</span>" if note else ""
    foot = f'<p class="note">{escape(below)}</p>' if below else ""
    return f'<figure class="card"><figcaption><h3>{escape(title)}</h3>{side}</figcaption>{chart}{foot}</figure>'


def _missing(content: str) -> str:
    return f'<p class="missing">{escape(content)}</p>'


def _curve(name: str, series: Series | None, color: str, held_out: bool = True) -> list[Curve]:
    return [] if series is None else [Curve(name, series.steps, series.values, color, held_out)]


def episodes(run: RunRecord, series: Series | None) -> Series | None:
    """A PPO series over generated episodes instead of iterations, where the run counted them."""
    return None if series is None else against(series, run.series("ppo", "rollout/episodes"))


def _episode_label(run: RunRecord) -> str:
    return "episodes" if run.series("ppo", "rollout/episodes") is not None else "iteration"


def learning_section(run: RunRecord) -> str:
    """Learning curves of the four stages."""
    lead = (
        "Pale lines are training values, full lines with dots held-out values. Long series are averaged in equal parts."
    )
    figures = [
        _pretrain_figure(run),
        _stage_figure(run, "sft", "loss on the answer", "nats per token", "loss", "sft"),
        _stage_figure(run, "reward", "Bradley-Terry loss", "nats per pair", "loss", "rm"),
        _stage_figure(run, "reward", "accuracy", "share of pairs ranked as the humans do", "accuracy", "rm"),
        _ppo_figure(run, "reward per answer", "reward (score)", "score"),
        _ppo_figure(run, "distance from the SFT model", "KL, nats per answer", "kl"),
    ]
    absent = [STAGE_TITLES[stage] for stage in STAGE_TITLES if stage not in run.stages()]
    note = _missing(f"No learning curves of: {', '.join(absent)}.") if absent else ""
    shown = "".join(figures)
    return f'<p class="lead">{lead}</p><div class="two">{shown}</div>{note}' if shown else note


def _pretrain_figure(run: RunRecord) -> str:
    metrics = run.metrics.get("pretrain", {})
    tasks = sorted(name.removeprefix("eval/loss/") for name in metrics if name.startswith("eval/loss/"))
    curves = _curve("train", metrics.get("train/loss"), "base", held_out=False)
    if not tasks:
        curves += _curve("held-out", metrics.get("eval/loss"), "base")
    for i, task in enumerate(tasks):
        curves += _curve(task.replace("_", " "), metrics[f"eval/loss/{task}"], f"task{i % 4 + 1}")
    if not curves:
        return ""
    below = []
    for task in tasks:
        perplexity = number(run.summary, "pretrain", "perplexity", task)
        if perplexity is None and (series := metrics.get(f"eval/perplexity/{task}")) is not None:
            perplexity = float(series.values[-1])
        if perplexity is not None:
            below.append(f"{task.replace('_', ' ')} {short(perplexity)}")
    chart = learning_chart(curves, x_label="step", y_label="nats per token", description="Pre-training loss per task")
    foot = f"Held-out perplexity at the end: {', '.join(below)}." if below else ""
    return _figure("Pre-training: loss per task", "lower is better", chart, foot)


def _stage_figure(run: RunRecord, stage: str, title: str, unit: str, name: str, color: str) -> str:
    curves = _curve("train", run.series(stage, f"train/{name}"), color, held_out=False)
    curves += _curve("held-out", run.series(stage, f"eval/{name}"), color)
    if not curves:
        return ""
    title = f"{STAGE_TITLES[stage]}: {title}"
    direction = "higher is better" if name == "accuracy" else "lower is better"
    return _figure(title, direction, learning_chart(curves, x_label="step", y_label=unit, description=title))


def _ppo_figure(run: RunRecord, title: str, unit: str, name: str) -> str:
    curves = []
    for label, key, held_out in (("rollouts", f"objective/{name}", False), ("held-out", f"eval/{name}", True)):
        curves += _curve(label, episodes(run, run.series("ppo", key)), "ppo", held_out)
    if not curves:
        return ""
    chart = learning_chart(curves, x_label=_episode_label(run), y_label=unit, description=f"PPO: {title}")
    return _figure(f"PPO: {title}", "higher is better" if name == "score" else "the price of it", chart)


def _paired(run: RunRecord, prefix: str, name: str) -> Curve | None:
    """KL (x) and score (y) of the iterations that recorded both, in their order, or None."""
    kl, score = run.series("ppo", f"{prefix}/kl"), run.series("ppo", f"{prefix}/score")
    if kl is None or score is None:
        return None
    _, at_kl, at_score = np.intersect1d(kl.steps, score.steps, assume_unique=True, return_indices=True)
    return Curve(name, kl.values[at_kl], score.values[at_score], "ppo") if len(at_kl) else None


def reward_kl_section(run: RunRecord) -> str:
    """Reward against KL."""
    path, held_out = _paired(run, "objective", "rollouts"), _paired(run, "eval", "held-out")
    finals = []
    for model in ("sft", "ppo"):
        reward, kl = policy_number(run, model, "reward_mean"), policy_number(run, model, "kl")
        kl = 0.0 if model == "sft" and kl is None else kl
        if reward is not None and kl is not None:
            bounds = interval(run.summary, "policy", model, "reward_mean_interval")
            finals.append(Held(MODEL_TITLES[model], model, kl, reward, bounds))
    if path is None and held_out is None:
        return _missing("PPO has recorded no pairs of reward and KL yet.")
    chart = reward_kl_chart(path, held_out, finals)
    text = (
        "<p>Reward is bought with distance. Every point is the policy at one moment, as far to the right as it has "
        "moved away from the SFT model and as high as the reward model rates its answers. A good run climbs steeply. A "
        "path that goes on to the right without climbing pays for nothing; one that never stops climbing deserves a "
        "look at the answers.</p>"
    )
    rest = "<p>Pale dots are training rollouts, later ones stronger; the full line is the held-out evaluation."
    rest += " Rings are the final figures on the test prompts, with 95% intervals.</p>" if finals else "</p>"
    return (
        f'<div class="split">{_figure("The path of PPO", "up and left is better", chart)}'
        f'<div class="card aside">{text}{rest}</div></div>'
    )


def judges_section(run: RunRecord) -> str:
    """Accuracy of the reward model beside a human rater, TF-IDF and the lexicon."""
    judges = []
    for name, (title, color) in JUDGES.items():
        accuracy = [number(run.summary, name, gap) for gap in GAPS]
        if any(value is not None for value in accuracy):
            bounds = [interval(run.summary, name, "intervals", gap) for gap in GAPS]
            judges.append(Judge(title, color, accuracy, bounds))
    if not judges:
        return _missing("No accuracies in summary.json yet: they are measured once the reward model is trained.")
    names = [name for name in JUDGES if lookup(run.summary, name, "pairs") is not None]
    pairs = [
        next((n for name in names if (n := number(run.summary, name, "pairs", gap)) is not None), None) for gap in GAPS
    ]
    counts = [None if n is None else int(n) for n in pairs]
    chart = accuracy_chart(list(GAPS.values()), counts, judges)
    trunk = lookup(run.summary, "reward_model", "trunk")
    below = f"Trunk of the reward model: {trunk}." if isinstance(trunk, str) else ""
    below += " These ratings come from the built-in generator: the human rater is simulated." if run.simulated else ""
    return (
        f'<div class="split">{_figure("Accuracy on held-out pairs", "whiskers: 95% bootstrap", chart, below)}'
        f'<div class="card"><div class="scroll">{_judge_table(judges)}</div></div></div>'
    )


def _judge_table(judges: Sequence[Judge]) -> str:
    heads = "<th>Judge</th>" + "".join(f'<th class="n">{escape(gap)}</th>' for gap in GAPS.values())
    rows = []
    for judge in judges:
        cells = []
        for value, bounds in zip(judge.accuracy, judge.intervals, strict=True):
            small = f"<small>{fixed(bounds[0], 3)}–{fixed(bounds[1], 3)}</small>" if bounds else ""
            cells.append(f'<td class="n" data-v="{"" if value is None else value}">{fixed(value, 3)}{small}</td>')
        rows.append(f'<tr style="--c:var(--{judge.color})"><th>{escape(judge.name)}</th>{"".join(cells)}</tr>')
    return f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def distribution_section(run: RunRecord) -> str:
    """Histograms of the rewards and the table of the three policies."""
    rewards = {model: values for model in MODELS if len(values := sample_rewards(run, model))}
    table = _policy_table(run)
    if not rewards:
        return (f'<div class="card scroll">{table}</div>' if table else "") + _missing(
            "samples.jsonl holds no rewards yet: no distribution to draw."
        )
    count = max(len(values) for values in rewards.values())
    chart = _figure(
        "Rewards of the answers",
        f"{count:,} test prompts",
        histogram_chart(rewards),
        "The outermost bins also hold the few answers beyond them.",
    )
    return f'<div class="split">{chart}<div class="card scroll">{table}</div></div>' if table else chart


def _policy_table(run: RunRecord) -> str:
    models = [m for m in MODELS if lookup(run.summary, "policy", m) is not None or len(sample_rewards(run, m))]
    if not models:
        return ""
    rows = (
        ("Mean reward", "reward_mean", lambda v: fixed(v)),
        ("Std of reward", "reward_std", lambda v: fixed(v)),
        ("KL, nats", "kl", lambda v: fixed(v, 1)),
        ("VADER-positive", "vader_positive", percent),
        ("Distinct-2", "distinct_2", lambda v: fixed(v, 3)),
        ("Tokens", "response_tokens", lambda v: fixed(v, 1)),
        ("Ends by itself", "eos_fraction", percent),
    )
    heads = "".join(f'<th class="n" style="color:var(--{m})">{MODEL_TITLES[m]}</th>' for m in models)
    body = []
    for title, key, shown in rows:
        cells = []
        for model in models:
            bounds = interval(run.summary, "policy", model, f"{key}_interval")
            small = f"<small>{fixed(bounds[0])} to {fixed(bounds[1])}</small>" if bounds else ""
            cells.append(f'<td class="n">{shown(policy_number(run, model, key))}{small}</td>')
        body.append(f"<tr><th>{title}</th>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>Test prompts</th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def diagnostics_section(run: RunRecord) -> str:
    """Small charts of PPO's inner state."""
    figures = []
    for key, title, form in DIAGNOSTICS:
        series = episodes(run, run.series("ppo", key))
        if series is not None:
            curve = Curve(title, series.steps, series.values, "ppo")
            last = float(series.values[-1])
            shown = form.replace("{%}", percent(last, 1)).replace("{}", short(last))
            chart = small_chart(curve, description=title)
            figures.append(_figure(title, shown, chart))
    if not figures:
        return _missing("No PPO iterations on record yet.")
    clock = run.series("ppo", "rollout/episodes")
    total = f", {short(float(cumulative(clock).values[-1]))} in all" if clock is not None else ""
    lead = f"Over {_episode_label(run)}{total}; beside each title its last value."
    return f'<p class="lead">{escape(lead)}</p><div class="three">{"".join(figures)}</div>'
