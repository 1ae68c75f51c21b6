"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reward_models.benchmarking.report.behaviour_sections import verdict
from reward_models.benchmarking.report.leaderboard import best_in, leaderboard, ranked
from reward_models.benchmarking.report.tables import interval, shown


def summary_table(data: Mapping[str, Any]) -> RenderableType:
    """Tables for ``rich.console.Console.print``: the models, and what optimisation against each does.

    Args:
        data: What `BenchmarkReport.to_json` gives.
    """
    blocks: list[RenderableType] = []
    if data["models"]:
        blocks.append(_models(data))
    if any(pool["curves"] for pool in data["overoptimization"].values()):
        blocks.append(_optimised(data))
    for name, model in data["models"].items():
        if model["broken"] or model["failures"]:
            why = model["broken"] or f"{model['speed']['failed_texts']:.0f} texts without a score, which count as ties"
            blocks.append(Text(f"{name}: {why}", style="red"))
    return Group(*blocks)


def _models(data: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Model", no_wrap=True, max_width=24)
    columns = [column for column in leaderboard(data) if column.title != "Gold lost"]
    for column in columns:
        table.add_column(f"{column.title}\n[dim]{column.unit}[/dim]", justify="right")
    best = [best_in(column) for column in columns]
    for name in ranked(data):
        cells = []
        for index, (column, top) in enumerate(zip(columns, best, strict=True)):
            words = shown(column.figures[name], digits=column.digits, share=column.share)
            ends = interval(column.figures[name], digits=column.digits, share=column.share) if index == 0 else ""
            cells.append(Text(f"{words} {ends}".strip(), style="bold" if name in top else ""))
        table.add_row(Text(name), *cells)
    return table


def _optimised(data: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Optimised against", no_wrap=True, max_width=28)
    for head in ("proxy\nat the end", "gold\nat its peak", "gold\nat the end", "gold lost\nsd, 95 %", "peak\n√nats"):
        table.add_column(head, justify="right")
    table.add_column("")
    for pool in data["overoptimization"].values():
        for name, curve in pool["curves"].items():
            top = max(curve["gold"], key=lambda found: found["value"])
            drop, fit = curve["drop"], curve["fit"]
            ends = interval(drop, digits=2, share=False)
            cells = [
                shown(found, digits=2, share=False, signed=True)
                for found in (curve["proxy"][-1], top, curve["gold"][-1])
            ]
            cells += [
                f"{shown(drop, digits=2, share=False)} {ends}",
                shown(fit["peak"], digits=2, share=False) if fit else "–",
            ]
            table.add_row(Text(name), *(Text(words) for words in cells), Text(verdict(curve)))
    return table
