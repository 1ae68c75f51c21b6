"""Sections that close the page: comparisons, agreement, distributions, seeds, speed, failures, data and how to read."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from reward_models.benchmarking.report.charts import dot_chart, histogram
from reward_models.benchmarking.report.tables import card, cell, heat_cell, name_cell, table
from textenv.pages.numbers import fixed, short

Colors = Mapping[str, str]
_MOST_DOTS = 15


def comparison_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Every two models against each other with paired tests."""
    blocks = []
    for suite in data["suites"].values():
        found = suite["comparisons"]
        if not found:
            continue
        rows = []
        for one in found:
            mcnemar = f"{one['only_first']} : {one['only_second']}"
            title = f"{one['first']} − {one['second']}"
            rows.append(
                name_cell(title, colors[one["first"]])
                + cell(one["difference"], signed=True, digits=2)
                + "".join(_p_cell(one[field]) for field in ("p", "p_holm"))
                + f'<td class="n" data-v="{one["only_first"] - one["only_second"]}">{mcnemar}</td>'
                + _p_cell(one["p_mcnemar"])
            )
        heads = [
            "Models",
            "Difference\npoints",
            "p\npaired bootstrap",
            "p\nHolm",
            "Only one right\nindependent pairs",
            "p\nMcNemar",
        ]
        chart = dot_chart(
            [(f"{x['first']} − {x['second']}", x["difference"], colors[x["first"]]) for x in found[:_MOST_DOTS]],
            x_label="difference in accuracy, percentage points",
        )
        note = (
            f"{len(found)} comparisons: without correction one in twenty equal pairs of models looks different at 5 %. "
            "Holm's p is corrected for that, within this suite. McNemar's test uses only pairs that share no prompt "
            f"({found[0]['independent_pairs']:,} of {suite['pairs']:,}), so it needs larger differences."
        )
        content = f'<div class="split"><div>{table(heads, rows, sortable=True)}</div><div>{chart}</div></div>'
        blocks.append(card(suite["title"], content, note))
    body = "".join(blocks)
    return f'<div class="stack">{body}</div>' if body else '<p class="missing">One model only.</p>'


def _p_cell(p: float | None) -> str:
    if p is None:
        return '<td class="n" data-v="NaN">–</td>'
    return f'<td class="n" data-v="{p:.6g}">{"< 0.001" if p < 0.001 else f"{p:.3f}"}</td>'


def agreement_section(data: Mapping[str, Any], colors: Colors) -> str:
    """How far models order the same pairs alike, how their scores are distributed, and how far seeds spread."""
    parts = []
    for suite in data["suites"].values():
        names = list(suite["agreement"])
        rows = [
            name_cell(a, colors[a])
            + "".join(
                heat_cell({"value": suite["agreement"][a][b], "low": None, "high": None}, low=0.5, high=1)
                for b in names
            )
            for a in names
        ]
        if len(names) > 1:
            parts.append(card(suite["title"], table(["Same order, %", *names], rows, heat=True)))
    body = f'<div class="two">{"".join(parts)}</div>' if parts else ""
    return body + _seeds(data) + _distributions(data, colors)


def _seeds(data: Mapping[str, Any]) -> str:
    blocks = []
    for kind, suites in data["seed_spread"].items():
        rows = [
            name_cell(data["suites"][suite]["title"])
            + "".join(
                f'<td class="n">{fixed(None if found[field] is None else 100 * found[field], 2)}</td>'
                for field in ("mean", "sd", "lowest", "highest", "agreement")
            )
            for suite, found in suites.items()
        ]
        members = next(iter(suites.values()))["members"] if suites else 0
        heads = ["Suite", "Mean\n%", "Sd over seeds\npoints", "Lowest\n%", "Highest\n%", "Same order\n%"]
        blocks.append(card(f"{kind}: {members} seeds", table(heads, rows)))
    return f'<div class="gap stack">{"".join(blocks)}</div>' if blocks else ""


def _distributions(data: Mapping[str, Any], colors: Colors) -> str:
    if not data["suites"]:
        return ""
    suite = next(iter(data["suites"].values()))
    cards = []
    for name, part in suite["models"].items():
        found = part["distribution"]
        if not found["edges"]:
            continue
        words = f"mean {short(found['mean'])}, sd {short(found['sd'])}, {found['distinct']:,} distinct values"
        cards.append(card(name, histogram(found, name, colors[name]), words))
    return f'<h3 class="gap">Scores on {escape(suite["title"])}</h3><div class="three gap">{"".join(cards)}</div>'


def speed_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Throughput, memory and failures."""
    rows = []
    for name, model in data["models"].items():
        speed = model["speed"]
        figures = [
            (speed["texts"], f"{speed['texts']:,.0f}"),
            (speed["seconds"], f"{speed['seconds']:.1f}"),
            (speed["pairs_per_second"], short(speed["pairs_per_second"])),
            (speed["words_per_second"], short(speed["words_per_second"])),
            (speed["peak_megabytes"], f"{speed['peak_megabytes']:,.0f}"),
            (speed["failed_texts"], f"{speed['failed_texts']:,.0f}"),
        ]
        rows.append(
            name_cell(name, colors[name], model["type"])
            + "".join(f'<td class="n" data-v="{v:.9g}">{w}</td>' for v, w in figures)
        )
    heads = [
        "Model",
        "Texts",
        "Seconds",
        "Pairs\nper second",
        "Words\nper second",
        "Memory\nadded, MB",
        "Failed\ntexts",
    ]
    note = (
        "Each distinct text is scored once. Memory: how far the process' resident memory rose while the model scored."
    )
    failures = "".join(
        _failures(name, model) for name, model in data["models"].items() if model["failures"] or model["broken"]
    )
    return card("", table(heads, rows, sortable=True), note) + failures


def _failures(name: str, model: Mapping[str, Any]) -> str:
    words = f"{escape(name)}: {model['speed']['failed_texts']:,.0f} texts have no score and count as ties"
    if model["broken"]:
        words = f"{escape(name)} was given up: {escape(model['broken'])}"
    items = "".join(
        f"<li><code>{escape(found['error'])}</code> on {escape(repr(found['response'][:120]))} "
        f"(prompt {escape(repr(found['prompt'][:80]))})</li>"
        for found in model["failures"][:5]
    )
    return f'<div class="notice gap"><b>{words}.</b><ul>{items}</ul></div>'


_READING = (
    (
        "Intervals",
        "95 %, from a bootstrap that draws prompts (for rated texts: texts), the same draws for all models. "
        "They say how figures would vary with other texts of this kind, not with other kinds of texts.",
    ),
    (
        "Ties",
        "A pair with equal scores counts one half, so a constant model gets 50. RewardBench 1 counts ties as "
        "wrong; its section scores here do so too.",
    ),
    (
        "Ceiling",
        "Labels are means of few noisy ratings. The ceiling is what the true values would get against them, "
        "estimated from the raters' disagreement; no model can do better, except by chance.",
    ),
    (
        "One rater",
        "A single person per text against the mean of the others. Beating it means agreeing with the crowd "
        "more than one member does, not that people are worse judges.",
    ),
    (
        "Calibration",
        "After the temperature fit only the shape of the error is left. Raw scores of a model without a scale "
        "are not wrong for being uncalibrated.",
    ),
    (
        "Probes",
        "Changed texts are made by rules, without anybody's judgement. A typo costs a good writer something, "
        "too: compare models, do not aim for 0.",
    ),
    (
        "Over-optimisation",
        "Simulated gold: it shows how a model fails under pressure in a world that is known, not when your "
        "policy will fail. KL of best-of-n is the analytic bound log n − (n − 1)/n.",
    ),
    (
        "Accuracy and training",
        "Pair accuracy predicts the quality of a trained policy only weakly (Wen et al. 2024, "
        "arXiv:2410.05584); look at hacks and gold under optimisation as well.",
    ),
)


def reading_section(data: Mapping[str, Any]) -> str:
    """What the figures mean, and the exact data they are about."""
    guide = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(words)}</dd></div>" for name, words in _READING)
    rows = []
    for name, suite in {**data["suites"], **data["overoptimization"]}.items():
        size = (
            f"{suite['items']:,} texts, {suite['pairs']:,} pairs"
            if "pairs" in suite
            else f"{suite['prompts']} × {suite.get('samples', '')}"
        )
        rows.append(
            name_cell(name)
            + f"<td>{escape(size)}</td><td><code>{escape(str(suite.get('sha256', ''))[:16])}</code></td>"
        )
    versions = ", ".join(f"{name} {escape(value)}" for name, value in data["versions"].items())
    settings = f"Seed {data['seed']}, {data['resamples']:,} resamples, {data['seconds']:.0f} s; {versions}."
    return (
        f'<div class="card"><dl>{guide}</dl></div><div class="gap">'
        f"{card('Data', table(['Suite', 'Size', 'SHA-256'], rows), settings)}</div>"
    )
