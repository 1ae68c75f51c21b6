"""Sections about agreement with people: leaderboard, accuracy, domains, ranking, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from reward_models.benchmarking.report.charts import dot_chart, gap_chart, reliability_chart
from reward_models.benchmarking.report.leaderboard import best_in, leaderboard, ranked
from reward_models.benchmarking.report.tables import card, cell, heat_cell, legend, name_cell, table
from textenv.pages.numbers import short

Colors = Mapping[str, str]


def leaderboard_section(data: Mapping[str, Any], colors: Colors) -> str:
    """The sortable table of all models."""
    columns = leaderboard(data)
    best = [best_in(column) for column in columns]
    rows = []
    for name in ranked(data):
        cells = [
            cell(column.figures[name], digits=column.digits, share=column.share, best=name in top)
            for column, top in zip(columns, best, strict=True)
        ]
        model = data["models"][name]
        note = "failed: see below" if model["broken"] else model["type"]
        rows.append(name_cell(name, colors[name], note) + "".join(cells))
    heads = ["Model", *(f"{column.title}\n{column.unit}" for column in columns)]
    lead = (
        "Share of pairs that a model orders as people do, ties counting one half: 50 is chance. In brackets 95 % "
        "bootstrap intervals. A click on a column's head sorts."
    )
    return f'<p class="lead">{lead}</p><div class="card">{table(heads, rows, sortable=True)}</div>'


def accuracy_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Accuracy of every suite: by gap where there are ratings, by subset where there are subsets."""
    cards = []
    for suite in data["suites"].values():
        models = suite["models"]
        usable = {name: found["accuracy"] for name, found in models.items() if not data["models"][name]["broken"]}
        if not usable:
            continue
        some = next(iter(usable.values()))
        note = escape(suite["note"])
        if suite["ceiling"] is not None:
            note += (
                ". The ceiling is what the true values themselves would get against these noisy labels; one rater "
                "is one person per text against the mean of the others."
            )
        if some["by_gap"]:
            ceiling = suite["ceiling"] or {}
            chart = gap_chart(
                {name: found["by_gap"] for name, found in usable.items()},
                colors,
                ceiling.get("rater"),
                ceiling.get("perfect"),
            )
        else:
            chart = dot_chart(
                [(name, found["overall"], colors[name]) for name, found in usable.items()],
                x_label="pairs ordered as people do, %",
                reference=0.5,
            )
        cards.append(card(suite["title"], chart, note))
        if some["by_subset"] or models[next(iter(models))]["choices"]:
            cards.append(card(f"{suite['title']}: parts", _parts_table(suite, colors), _parts_note(suite)))
    if not cards:
        return '<p class="missing">No suite of pairs was asked for.</p>'
    return f'{legend(colors)}<div class="two">{"".join(cards)}</div>'


def _parts_table(suite: Mapping[str, Any], colors: Colors) -> str:
    """Sections and subsets in rows, models in columns."""
    models = suite["models"]
    first = next(iter(models.values()))
    rows = []
    sources: list[tuple[str, str, str]] = []
    if first["choices"]:
        sources = [(name, "choices", "subsets") for name in first["choices"]["subsets"]]
    else:
        sources = [(name, "accuracy", "sections") for name in first["accuracy"]["sections"]]
        sources += [(name, "accuracy", "by_subset") for name in first["accuracy"]["by_subset"]]
    for part, kind, field in sources:
        title = f"{part} (section)" if field == "sections" else part
        cells = "".join(heat_cell(found[kind][field].get(part), low=0.5, high=1.0) for found in models.values())
        rows.append(name_cell(title) + cells)
    return legend({name: colors[name] for name in models}) + table(["Part", *models], rows, heat=True)


def _parts_note(suite: Mapping[str, Any]) -> str:
    first = next(iter(suite["models"].values()))
    if first["choices"]:
        chance = ", ".join(f"{name} {value:.2f}" for name, value in first["choices"]["chance"].items())
        words = "The right answer must have the best score; k equal best scores count 1/k. A constant model gets"
        return f"{words} {escape(chance)}."
    return "Sections weigh their subsets and count ties as wrong, as RewardBench does; subsets count ties one half."


def domains_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Models in rows, domains in columns: what is learned on one and holds on the others."""
    blocks = []
    groups: dict[str, list[str]] = {}
    for name, suite in data["suites"].items():
        if suite["group"]:
            groups.setdefault(suite["group"], []).append(name)
    for group, names in groups.items():
        if len(names) < 2:
            continue
        rows = []
        for model in ranked(data):
            found = [data["suites"][name]["models"][model]["accuracy"] for name in names]
            gap = [part["by_gap"].get("0.5") or part["overall"] for part in found]
            rows.append(name_cell(model, colors[model]) + "".join(heat_cell(f, low=0.5, high=1.0) for f in gap))
        raters = [(data["suites"][name]["ceiling"] or {}).get("rater", {}).get("0.5") for name in names]
        if any(raters):
            rows.append(name_cell("one rater", "rater") + "".join(heat_cell(f, low=0.5, high=1.0) for f in raters))
        domains = [name.partition("/")[2] for name in names]
        note = (
            "Accuracy in % on pairs whose mean ratings differ by more than 0.5. A model that was trained on one domain "
            "shows here what it is worth on the others; give a model per training domain to fill a matrix."
        )
        blocks.append(card(f"{group}: accuracy across domains", table(["Model", *domains], rows, heat=True), note))
    return "".join(blocks) or '<p class="missing">Fewer than two domains were measured.</p>'


def ranking_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Kendall, Spearman and best-of-K per suite."""
    blocks = []
    for suite in data["suites"].values():
        found = {name: part["ranking"] for name, part in suite["models"].items() if part["ranking"] is not None}
        if not found:
            continue
        sizes = sorted({size for part in found.values() for size in part["best_of"]}, key=int)
        heads = ["Model", "Kendall\nτ-b", "Spearman\nρ", *(f"Best of {size}\ngain, %" for size in sizes)]
        rows = []
        for name, part in found.items():
            cells = cell(part["kendall"], digits=3, share=False) + cell(part["spearman"], digits=3, share=False)
            cells += "".join(cell(part["best_of"].get(size), digits=0) for size in sizes)
            rows.append(name_cell(name, colors[name]) + cells)
        truth = "the known truth" if suite["truth_known"] else "the mean ratings"
        where = "within prompts" if suite["within_prompts"] else "over all texts"
        note = f"Against {truth}, {where}. Gain: 100 picks as well as the gold values would, 0 as well as chance."
        blocks.append(card(suite["title"], table(heads, rows, sortable=True), note))
    body = "".join(blocks)
    return f'<div class="stack">{body}</div>' if body else '<p class="missing">No suite has gold values.</p>'


def calibration_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Reliability plots after the temperature fit, and the errors before and after."""
    cards = []
    for suite in data["suites"].values():
        found = {name: part["calibration"] for name, part in suite["models"].items() if part["calibration"]}
        if not found:
            continue
        # A model that says one half of everything has no curve; more than five make the plot unreadable.
        telling = [name for name, part in found.items() if max(b["confidence"] for b in part["fitted"]["bins"]) > 0.55]
        shown = {name: found[name] for name in sorted(telling, key=lambda n: found[n]["fitted"]["nll"]["value"])[:5]}
        chart = (
            ""
            if not shown
            else reliability_chart({name: part["fitted"]["bins"] for name, part in shown.items()}, colors)
        )
        heads = ["Model", "T", "ECE\nraw, %", "ECE\nafter T, %", "ECE\nequal mass, %", "Brier", "NLL\nnats"]
        rows = [
            name_cell(name, colors[name])
            + f'<td class="n" data-v="{part["temperature"]:.6g}">{short(part["temperature"])}</td>'
            + cell(part["raw"]["ece"])
            + cell(part["fitted"]["ece"])
            + cell(part["fitted"]["ece_mass"])
            + cell(part["fitted"]["brier"], digits=3, share=False)
            + cell(part["fitted"]["nll"], digits=3, share=False)
            for name, part in found.items()
        ]
        soft = "shares of raters" if suite["ceiling"] is not None else "the labels"
        note = (
            f"Probability that one response is preferred, σ(score difference / T), against {soft}. T is fitted on one "
            "half of the prompts, everything shown is about the other half. Ten bins of equally many pairs; chance has "
            "NLL 0.693."
        )
        plot = legend({n: colors[n] for n in shown}) + f'<div class="narrow">{chart}</div>' if shown else ""
        cards.append(card(suite["title"], plot + table(heads, rows, sortable=True), note))
    body = "".join(cards)
    return f'<div class="stack">{body}</div>' if body else '<p class="missing">No suite has pairs enough.</p>'
