"""`render_page`: one self-contained HTML page from the figures of a benchmark and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from reward_models.benchmarking.report.charts import (
    gap_chart,
    path_charts,
    reliability_chart,
    score_histogram,
    share_axis,
)
from reward_models.benchmarking.report.leaderboard import leaderboard, ranked
from textenv.pages.numbers import between, shown
from textenv.pages.page import Section, render_report

Colors = Mapping[str, str]

_COLORS = 10
_MOST_CURVES = 5
_MOST_TOLD = 4


def render_page(data: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        data: What `BenchmarkReport.to_json` gives.
    """
    names = _colors(data["models"])
    paths = _colors(curve for pool in data["overoptimization"].values() for curve in pool["curves"]) | names
    with_suites = (
        Section("accuracy", "Accuracy", "Agreement with people", (data, names, _accuracy(data, names))),
        Section("domains", "Domains", "Across domains", (data, names, _domains(data), _order(data))),
        Section("calibration", "Calibration", "Calibration", (data, names, _calibration(data, names))),
        Section("ranking", "Ranking", "Ranking", (data, names, _ranking(data))),
        Section("length", "Length", "Length", (data, names)),
        Section("format", "Format and names", "Format, names, identities", (data, names)),
        Section("robustness", "Robustness", "Small changes", (data, names)),
        Section("hacks", "Hacks", "Responses without worth", (data, names, *_hacks(data, names))),
        Section("comparisons", "Comparisons", "Is one better than another?", (data, names, _comparisons(data))),
        Section(
            "agreement", "Agreement", "Agreement between models, scores, seeds", (data, names, _scores(data, names))
        ),
    )
    sections = []
    if data["models"]:
        sections.append(
            Section("leaderboard", "Leaderboard", "Leaderboard", (data, names, leaderboard(data), _order(data)))
        )
    if data["overoptimization"]:
        sections.append(
            Section("overoptimization", "Over-optimisation", "Over-optimisation", (_pools(data, paths), paths))
        )
    sections += with_suites if data["suites"] else ()
    if data["models"]:
        sections.append(Section("speed", "Speed", "Speed, memory, failures", (data, names)))
    sections.append(Section("reading", "Reading", "How to read this", (data,)))
    return render_report(
        "reward_models.benchmarking.report",
        "benchmark_sections.html",
        sections,
        title="Reward model benchmark · textenv",
        kicker=f"textenv benchmark · {_kicker(data)}",
        headline=headline(data),
        footer="Written by textenv from the figures in the JSON beside this page.",
    )


def _colors(names: Iterable[str]) -> dict[str, str]:
    """A colour's name for each model, in order; they repeat after ten."""
    return {name: f"m{index % _COLORS + 1}" for index, name in enumerate(names)}


def _order(data: Mapping[str, Any]) -> list[str]:
    return ranked(data) if data["models"] else []


def _kicker(data: Mapping[str, Any]) -> str:
    models = len(data["models"])
    parts = [f"{models} model{'s' * (models != 1)}"] if models else []
    suites = len(data["suites"]) + len(data["overoptimization"])
    parts += [f"{suites} suite{'s' * (suites != 1)}", f"seed {data['seed']}"]
    if data["quick"]:
        parts.append("quick run: small suites, wide intervals")
    return " · ".join(parts)


def headline(data: Mapping[str, Any]) -> Markup:
    """The result in a sentence."""
    if data["suites"] and data["models"]:
        first = leaderboard(data)[0].figures
        best, *others = ranked(data)
        sentence = Markup("<b>{}</b> orders {} % of the pairs as people do {}")
        sentence = sentence.format(best, shown(first[best]), between(first[best]))
        if others:
            sentence += "; " + ", ".join(f"{name} {shown(first[name])} %" for name in others[:3])
        return sentence + "."
    for pool in data["overoptimization"].values():
        parts = []
        for name, curve in pool["curves"].items():
            top = max(curve["gold"], key=lambda found: found["value"])
            best, end = (shown(found, 2, share=False, signed=True) for found in (top, curve["gold"][-1]))
            parts.append(Markup("<b>{}</b> brings gold to {} and leaves it at {}").format(name, best, end))
        if parts:
            return Markup("Along the proxy {} standard deviations.").format(Markup(", ").join(parts))
    return escape("Nothing was measured.")


def _accuracy(data: Mapping[str, Any], colors: Colors) -> dict[str, Any]:
    """Of every suite with a model that works: a chart by gap where there are ratings, else rows and their axis."""
    charts = {}
    for key, suite in data["suites"].items():
        models = {n: found["accuracy"] for n, found in suite["models"].items() if not data["models"][n]["broken"]}
        if models and next(iter(models.values()))["by_gap"]:
            charts[key] = (gap_chart(suite, models, colors), (), None)
        elif models:
            rows = [(name, found["overall"], colors[name]) for name, found in models.items()]
            charts[key] = (None, rows, share_axis([found for _, found, _ in rows], 0.5))
    return charts


def _domains(data: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of several domains: the suite of each, and what a single rater gets on each."""
    groups: dict[str, dict[str, Any]] = {}
    for name, suite in data["suites"].items():
        if suite["group"]:
            groups.setdefault(suite["group"], {})[name.partition("/")[2]] = suite
    several = {group: domains for group, domains in groups.items() if len(domains) > 1}
    return {
        group: (domains, [(suite["ceiling"] or {}).get("rater", {}).get("0.5") for suite in domains.values()])
        for group, domains in several.items()
    }


def _ranking(data: Mapping[str, Any]) -> list[Any]:
    """Suites with gold values, and the sizes of the sets that the best is chosen from."""
    found = []
    for suite in data["suites"].values():
        measured = [model["ranking"] for model in suite["models"].values() if model["ranking"] is not None]
        if measured:
            found.append((suite, sorted({size for part in measured for size in part["best_of"]}, key=int)))
    return found


def _calibration(data: Mapping[str, Any], colors: Colors) -> dict[str, Any]:
    """Reliability charts, each with the colours of the models on it."""
    charts = {}
    for key, suite in data["suites"].items():
        fitted = {n: part["calibration"]["fitted"] for n, part in suite["models"].items() if part["calibration"]}
        # A model that says one half of everything has no curve; more than five make the plot unreadable.
        telling = [name for name, part in fitted.items() if max(b["confidence"] for b in part["bins"]) > 0.55]
        names = sorted(telling, key=lambda name: fitted[name]["nll"]["value"])[:_MOST_CURVES]
        chart = reliability_chart({name: fitted[name]["bins"] for name in names}, colors) if names else None
        if fitted:
            charts[key] = (chart, {name: colors[name] for name in names})
    return charts


def _hacks(data: Mapping[str, Any], colors: Colors) -> tuple[Any, Any]:
    if not data["probes"]:
        return (), None
    rows = [(name, found["pass_rate"], colors[name]) for name, found in data["probes"]["models"].items()]
    return rows, share_axis([found for _, found, _ in rows], 0.5)


def _comparisons(data: Mapping[str, Any]) -> dict[str, Any]:
    """An axis for the differences of every suite that compares models."""
    compared = {key: suite["comparisons"] for key, suite in data["suites"].items() if suite["comparisons"]}
    return {key: share_axis([pair["difference"] for pair in pairs], 0.0) for key, pairs in compared.items()}


def _scores(data: Mapping[str, Any], colors: Colors) -> list[Any]:
    """How each model's scores are distributed on the first suite."""
    suites = list(data["suites"].values())[:1]
    parts = [(name, model["distribution"]) for suite in suites for name, model in suite["models"].items()]
    return [(name, found, score_histogram(found, name, colors[name])) for name, found in parts if found["edges"]]


def _pools(data: Mapping[str, Any], colors: Colors) -> list[Any]:
    """Pools with the charts of their paths, what is told of some, and the names of the others by verdict."""
    pools = []
    for pool in data["overoptimization"].values():
        curves = pool["curves"]
        if not curves:
            continue
        turned = [name for name, curve in curves.items() if curve["shape_known"]]
        told = list(curves) if len(curves) <= _MOST_TOLD else turned[:_MOST_TOLD]
        others: dict[str, list[str]] = {}
        for name, curve in curves.items():
            if name not in told:
                others.setdefault(verdict(curve), []).append(name)
        words = [(name, verdict(curves[name]), _told(curves[name])) for name in told]
        pools.append((pool, path_charts(curves, colors), words, dict(sorted(others.items()))))
    return pools


def _told(curve: Mapping[str, Any]) -> str:
    """Where a path is highest and where it ends."""
    top = max(range(len(curve["gold"])), key=lambda index: curve["gold"][index]["value"])
    ends = (curve["gold"][top], curve["gold"][-1], curve["proxy"][-1])
    best, last, said = (shown(found, 2, share=False, signed=True) for found in ends)
    count = curve["steps"][top]
    step = f"n = {count:,}" if curve["method"] == "best_of_n" else f"after {count:,} training answers"
    return (
        f"Gold is highest, {best} sd, at {curve['kl'][top]:.1f} nats ({step}); at the end, {curve['kl'][-1]:.1f} nats, "
        f"it is {last}; the proxy says {said}."
    )


def verdict(curve: Mapping[str, Any]) -> str:
    """In words: whether gold turned, beyond the intervals."""
    drop = curve["drop"]
    if curve["shape_known"]:
        return "gold rises, then falls: over-optimised"
    if drop["low"] is not None and drop["low"] > 0:
        return "gold falls: worse than not optimising"
    first, last = curve["gold"][0], curve["gold"][-1]
    if last["low"] is not None and first["high"] is not None and last["low"] > first["high"]:
        return "gold still holds at the end"
    return "no change beyond the intervals"
