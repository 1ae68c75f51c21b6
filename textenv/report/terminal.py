"""The summary of a run for the terminal: what each stage gave, and the three policies side by side."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from textenv.pages.numbers import duration, fixed, percent, short
from textenv.report.headline import DATA_TITLES, POLICY_FIGURES, gain
from textenv.report.run_folder import MODEL_TITLES, MODELS, RunRecord, interval, lookup, number, text

_STYLES = {"base": "bright_black", "sft": "blue", "ppo": "dark_orange"}


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """A rich renderable of ``summary.json``; figures that the summary does not hold are left out or shown as a dash.

    Args:
        summary: The object in ``summary.json``, complete or not.

    Returns:
        Tables that fit into 80 columns, for ``rich.console.Console.print``.
    """
    name, data, seed = text(summary, "name"), text(summary, "data"), number(summary, "seed")
    parts = [
        name or "run",
        DATA_TITLES.get(data, data) if data else None,
        f"seed {seed:.0f}" if seed is not None else None,
    ]
    blocks: list[RenderableType] = [Text(" · ".join(part for part in parts if part), style="bold"), _stages(summary)]
    if any(lookup(summary, "policy", model) is not None for model in MODELS):
        blocks.append(_policies(summary))
    checks = lookup(summary, "checks")
    if isinstance(checks, Mapping) and checks:
        failed = [str(key) for key, value in checks.items() if value is False]
        words = f"failed run checks: {', '.join(failed)}" if failed else f"all {len(checks)} run checks passed"
        blocks.append(Text(words, style="red bold" if failed else "green"))
    return Group(*blocks)


def _stages(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Stage", no_wrap=True)
    table.add_column("Result", overflow="fold")
    table.add_column("Time", justify="right", no_wrap=True)
    rows = (
        ("Data", "data", ""),
        ("Pre-training", "pretrain", _pretraining(summary)),
        ("Fine-tuning", "sft", _fine_tuning(summary)),
        ("Reward model", "reward", _reward_model(summary)),
        ("PPO", "ppo", _ppo(summary)),
        ("Evaluation", "evaluate", _evaluation(summary)),
        ("Total", "total", ""),
    )
    for title, key, result in rows:
        seconds = number(summary, "seconds", key)
        if result or seconds is not None:
            table.add_row(title, Text(result), duration(seconds), style="bold" if key == "total" else "")
    return table


def _pretraining(summary: Mapping[str, Any]) -> str:
    tasks = lookup(summary, "pretrain", "perplexity")
    found = {task: v for task in tasks if (v := number(tasks, task)) is not None} if isinstance(tasks, Mapping) else {}
    return "held-out perplexity " + ", ".join(f"{task} {short(v)}" for task, v in found.items()) if found else ""


def _fine_tuning(summary: Mapping[str, Any]) -> str:
    loss, perplexity = number(summary, "sft", "loss"), number(summary, "sft", "perplexity")
    if loss is None:
        return ""
    return f"held-out loss {fixed(loss)} nats per token" + (
        "" if perplexity is None else f", perplexity {short(perplexity)}"
    )


def _reward_model(summary: Mapping[str, Any]) -> str:
    own = number(summary, "reward_model", "accuracy_gap_0_5")
    if own is None:
        return ""
    others = (("human", "human_rater"), ("TF-IDF", "tfidf"), ("VADER", "lexicon"))
    known = [(title, number(summary, key, "accuracy_gap_0_5")) for title, key in others]
    beside = ", ".join(f"{title} {fixed(value, 3)}" for title, value in known if value is not None)
    return f"accuracy at gap > 0.5: {fixed(own, 3)}" + (f" ({beside})" if beside else "")


def _ppo(summary: Mapping[str, Any]) -> str:
    change = gain(RunRecord("", None, summary, {}, (), ()))
    if change is None:
        episodes = number(summary, "ppo", "episodes")
        kl = number(summary, "evaluation", "rl", "kl")
        parts = [] if episodes is None else [f"{episodes:,.0f} episodes"]
        return ", ".join(parts + ([] if kl is None else [f"{fixed(kl, 2)} nats of KL"]))
    words = f"reward {fixed(change.before)} → {fixed(change.after)}"
    if change.deviations is not None:
        words += f", {fixed(change.deviations, signed=True)} SFT standard deviations"
    return words + (f" at {fixed(change.kl, 1)} nats of KL" if change.kl is not None else "")


def _evaluation(summary: Mapping[str, Any]) -> str:
    parts = []
    for title, key in (("in the asked form", "answered"), ("accuracy", "accuracy")):
        values = [number(summary, "evaluation", model, key) for model in ("base", "sft", "rl")]
        shown = [percent(value) for value in values if value is not None]
        if shown:
            parts.append(f"{title} {' → '.join(shown)}")
    for title, key, shown in (("VADER-positive", "vader_positive", percent), ("distinct-2", "distinct_2", short)):
        before, after = (number(summary, "policy", model, key) for model in ("sft", "ppo"))
        if before is not None and after is not None:
            parts.append(f"{title} {shown(before)} → {shown(after)}")
    return ", ".join(parts)


def _policies(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Test prompts", no_wrap=True)
    models = [model for model in MODELS if lookup(summary, "policy", model) is not None]
    for model in models:
        table.add_column(Text(MODEL_TITLES[model], style=_STYLES[model]), justify="right", no_wrap=True)
    for title, key, shown in POLICY_FIGURES:
        table.add_row(title, *(Text(shown(number(summary, "policy", model, key))) for model in models))
        ends = [interval(summary, "policy", model, f"{key}_interval") for model in models]
        if any(ends):
            table.add_row("  95% interval", *(Text(f"[{fixed(e[0])}, {fixed(e[1])}]" if e else "") for e in ends))
    return table
