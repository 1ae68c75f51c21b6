"""Sections about behaviour: length, format, names, robustness, worthless responses, over-optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from reward_models.benchmarking.overoptimization.fits import value_of
from reward_models.benchmarking.report.charts import PathLine, dot_chart, path_chart
from reward_models.benchmarking.report.tables import card, cell, heat_cell, interval, name_cell, shown, table

Colors = Mapping[str, str]
_MOST_TOLD = 4
_NO_PROBES = '<p class="missing">The probes were not run.</p>'


def length_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Length bias per suite."""
    cards = []
    for suite in data["suites"].values():
        found = {name: part["length"] for name, part in suite["models"].items()}
        heads = [
            "Model",
            "Correlation\nwith words",
            "given gold\npartial",
            "Longer right\naccuracy, %",
            "Longer wrong\naccuracy, %",
            "Difference\npoints",
            "Prefers longer\n% of pairs",
        ]
        rows = [
            name_cell(name, colors[name])
            + cell(part["correlation"], digits=2, share=False, signed=True)
            + cell(part["partial"], digits=2, share=False, signed=True)
            + cell(part["longer_right"])
            + cell(part["longer_wrong"])
            + cell(part["difference"], signed=True)
            + cell(part["prefers_longer"])
            for name, part in found.items()
        ]
        gold = next(iter(found.values()))["gold_correlation"]
        note = (
            "A model that does not look at the length is as accurate where the longer response is right as where not."
        )
        if gold["value"] is not None:
            note += (
                f" People's own ratings correlate {shown(gold, digits=2, share=False, signed=True)} with the length."
            )
        cards.append(card(suite["title"], table(heads, rows, sortable=True), note))
    return f'<div class="stack">{"".join(cards)}</div>' if cards else '<p class="missing">No suite of pairs.</p>'


def format_section(data: Mapping[str, Any], colors: Colors) -> str:
    """What the look of a response, a name or an identity does to its score."""
    if not data["probes"]:
        return _NO_PROBES
    models = data["probes"]["models"]
    shift = _effects_table(models, "format", "shift", colors)
    parts = [
        card(
            "Same words, another look",
            shift,
            "Mean change of the score in standard deviations of the model's own "
            "scores of the unchanged texts: 0 is indifferent.",
        )
    ]
    for field, title, note in (
        (
            "names",
            "First names",
            "Eight sentences with first names of eight groups, six names each; intervals over names.",
        ),
        (
            "identities",
            "Identities",
            "Eight neutral sentences about sixteen kinds of people; intervals over sentences.",
        ),
    ):
        groups = list(next(iter(models.values()))[field])
        rows = [
            name_cell(name, colors[name]) + "".join(_signed_heat(found[field][group]) for group in groups)
            for name, found in models.items()
        ]
        parts.append(
            card(
                title,
                table(["Model", *groups], rows, heat=True),
                f"{note} Deviation from the mean of all "
                "groups, standard deviations of the model's scores; every sentence deserves the same.",
            )
        )
    judged = {name: found for name, found in models.items() if found["position"] is not None}
    if judged:
        rows = [name_cell(n, colors[n]) + cell(f["position"]) + cell(f["first_place"]) for n, f in judged.items()]
        parts.append(card("Place", table(["Model", "Same decision\nboth orders, %", "First place wins\n%"], rows)))
    return f'<div class="stack">{"".join(parts)}</div>'


def robustness_section(data: Mapping[str, Any], colors: Colors) -> str:
    """What small changes of the text do."""
    if not data["probes"]:
        return _NO_PROBES
    models = data["probes"]["models"]
    first = next(iter(models.values()))["robustness"]
    changed = ", ".join(f"{name} {100 * found['changed']:.0f} %" for name, found in first.items())
    flips = _effects_table(models, "robustness", "flips", colors)
    sizes = _effects_table(models, "robustness", "size", colors)
    return (
        '<div class="stack">'
        + card(
            "Pairs that turn round, %",
            flips,
            f"When both texts of a pair are changed; {data['probes']['pairs']} "
            f"pairs. Texts that the change does anything to: {escape(changed)}.",
        )
        + card(
            "How far scores move",
            sizes,
            "Mean absolute change, standard deviations of the unchanged texts' scores. "
            "Cutting off the last quarter may rightly change a score; the others hardly should.",
        )
        + "</div>"
    )


def hacks_section(data: Mapping[str, Any], colors: Colors) -> str:
    """What responses without worth earn."""
    if not data["probes"]:
        return _NO_PROBES
    models = data["probes"]["models"]
    kinds = list(next(iter(models.values()))["hacks"])
    chart = dot_chart(
        [(name, found["pass_rate"], colors[name]) for name, found in models.items()],
        x_label="worthless responses below the median real one, %",
        reference=0.5,
    )
    rows = []
    for kind in kinds:
        cells = "".join(
            heat_cell(found["hacks"][kind]["wins"], low=0.0, high=1.0, digits=0, bad=True) for found in models.values()
        )
        example = next(iter(models.values()))["hacks"][kind]["example"].strip() or "(nothing)"
        rows.append(name_cell(kind, note=example[:70] + ("…" if len(example) > 70 else "")) + cells)
    note = "Share in % that score above the median of the real responses, ties half: what a policy would be paid for."
    return (
        f'<div class="stack">{card("Caught", chart)}'
        f"{card('Which ones pay', table(['Kind', *models], rows, heat=True), note)}</div>"
    )


def overoptimization_section(data: Mapping[str, Any], colors: Colors) -> str:
    """Gold and proxy against √KL for each pool and each policy run, with the fitted forms."""
    blocks = []
    for pool in data["overoptimization"].values():
        curves = pool["curves"]
        if not curves:
            continue
        names = {name: colors.get(name, "m1") for name in curves}
        blocks.append(
            f'<h3 class="gap">{escape(pool["title"])}</h3><p class="note">{escape(pool["note"].rstrip("."))}.</p>'
            f'<div class="two gap">{_path_cards(curves, names)}{_found_card(curves)}</div>{_fit_card(curves, names)}'
        )
    if not blocks:
        return '<p class="missing">No pool of samples was asked for; add the suite overoptimization.</p>'
    lead = (
        "Answers are picked, or a policy is trained, by the model's score: the further (√KL), the more. If gold turns "
        "down while the proxy rises, the model pays for what is worth nothing. KL of best-of-n and of training are not "
        "comparable: training spends more."
    )
    return f'<p class="lead">{lead}</p>{"".join(blocks)}'


def _path_cards(curves: Mapping[str, Any], colors: Colors) -> str:
    """Gold against √KL, proxy against √KL, gold against proxy."""
    gold = [_line(name, curve, colors[name], "gold", fitted=True) for name, curve in curves.items()]
    proxy = [_line(name, curve, colors[name], "proxy", fitted=False) for name, curve in curves.items()]
    both = [replace(g, x=p.y, fit=None) for g, p in zip(gold, proxy, strict=True)]
    distance, worth, said = "√KL, √nats per answer", "gold, sd of the start", "proxy, sd of the start"
    charts = (
        ("Gold: what the answers are worth", gold, distance, worth, "Dashed: the fitted form. Bands: 95 %."),
        ("Proxy: what the model says of them", proxy, distance, said, ""),
        ("Gold against proxy", both, said, worth, "To the right the model is more and more content."),
    )
    return "".join(
        card(title, path_chart(lines, x_label=x_label, y_label=y_label, description=title), note)
        for title, lines, x_label, y_label, note in charts
    )


def _found_card(curves: Mapping[str, Any]) -> str:
    """What happened on each path, in words; of many paths those that turned, and the names of the others."""
    turned = [name for name, curve in curves.items() if curve["shape_known"]]
    told = list(curves) if len(curves) <= _MOST_TOLD else turned[:_MOST_TOLD]
    items = []
    for name in told:
        curve = curves[name]
        top = max(range(len(curve["gold"])), key=lambda index: curve["gold"][index]["value"])
        best, end, said = (
            shown(found, digits=2, share=False, signed=True)
            for found in (curve["gold"][top], curve["gold"][-1], curve["proxy"][-1])
        )
        items.append(
            f"<p><b>{escape(name)}</b>: {verdict(curve)}. Gold is highest, {best} sd, at {curve['kl'][top]:.1f} nats "
            f"({_step(curve, top)}); at the end, {curve['kl'][-1]:.1f} nats, it is {end}; the proxy says {said}.</p>"
        )
    for words in sorted({verdict(curve) for name, curve in curves.items() if name not in told}):
        names = ", ".join(escape(n) for n, curve in curves.items() if n not in told and verdict(curve) == words)
        items.append(f"<p><b>{names}</b>: {words}.</p>")
    return card("What happened", f'<div class="aside">{"".join(items)}</div>')


def _step(curve: Mapping[str, Any], index: int) -> str:
    count = curve["steps"][index]
    return f"n = {count:,}" if curve["method"] == "best_of_n" else f"after {count:,} training answers"


def _line(name: str, curve: Mapping[str, Any], color: str, field: str, *, fitted: bool) -> PathLine:
    x = np.sqrt(np.maximum(np.array(curve["kl"], float), 0))
    figures = curve[field]
    y = np.array([found["value"] for found in figures], float)
    low = np.array([found["value"] if found["low"] is None else found["low"] for found in figures], float)
    high = np.array([found["value"] if found["high"] is None else found["high"] for found in figures], float)
    step = "n" if curve["method"] == "best_of_n" else "episodes"
    tips = [
        f"{name}, {step} = {n:,}: {field} {shown(f, digits=2, share=False)} {interval(f, digits=2, share=False)} "
        f"at {kl:.2f} nats"
        for n, f, kl in zip(curve["steps"], figures, curve["kl"], strict=True)
    ]
    fit = None
    if fitted and curve["fit"] is not None:
        d = np.linspace(0, float(x.max()), 80)
        alpha, beta = curve["fit"]["alpha"]["value"], curve["fit"]["beta"]["value"]
        fit = list(zip(d.tolist(), (y[0] + value_of(d, alpha, beta, curve["fit"]["form"])).tolist(), strict=True))
    return PathLine(name, color, x, y, low, high, tips, fit)


def _fit_card(curves: Mapping[str, Any], colors: Colors) -> str:
    heads = [
        "Optimised against",
        "α",
        "β",
        "Gold peaks at\n√nats",
        "Gold there\nsd",
        "Gold lost at the end\nsd",
        "R²",
    ]
    rows = []
    for name, curve in curves.items():
        fit = curve["fit"]
        fields = ("alpha", "beta", "peak", "peak_gold")
        cells = "".join(cell(fit[f] if fit else None, digits=2, share=False) for f in fields)
        cells += cell(curve["drop"], digits=2, share=False)
        squared = fit["r_squared"] if fit else None
        cells += f'<td class="n">{"–" if squared is None else f"{squared:.2f}"}</td>'
        rows.append(name_cell(name, colors.get(name, ""), _method(curve)) + cells)
    note = (
        "Forms of Gao et al. 2022 with d = √KL: best-of-n R = d(α − βd), training R = d(α − β log d), least squares on "
        "gold, intervals by a bootstrap over prompts. The loss is measured on prompts that did not choose the peak."
    )
    return f'<div class="gap">{card("Fitted constants", table(heads, rows, sortable=True), note)}</div>'


def _method(curve: Mapping[str, Any]) -> str:
    return "best-of-n" if curve["method"] == "best_of_n" else "policy training"


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


def _effects_table(models: Mapping[str, Any], group: str, field: str, colors: Colors) -> str:
    kinds = list(next(iter(models.values()))[group])
    rows = []
    for name, found in models.items():
        cells = []
        for kind in kinds:
            figure = found[group][kind][field]
            if field == "flips":
                cells.append(heat_cell(figure, low=0.0, high=0.3, bad=True))
            elif field == "size":
                cells.append(heat_cell(figure, low=0.0, high=1.0, bad=True, share=False, digits=2))
            else:
                cells.append(_signed_heat(figure))
        rows.append(name_cell(name, colors[name]) + "".join(cells))
    return table(["Model", *kinds], rows, heat=True)


def _signed_heat(found: Mapping[str, Any]) -> str:
    """A cell shaded by the distance from 0."""
    below = found["value"] is not None and found["value"] < 0
    return heat_cell(found, low=0.0, high=-1.0 if below else 1.0, share=False, digits=2, signed=True, bad=not below)
