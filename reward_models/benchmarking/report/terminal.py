"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reward_models.benchmarking.report.leaderboard import leaderboard, ranked
from textenv.pages.numbers import between, short, shown


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
    columns = [column for column in leaderboard(data) if column.title not in ("Gold lost", "Gap > 0.5")]
    for index, column in enumerate(columns):
        unit = "%" if column.share else column.unit
        table.add_column(
            f"{column.title}\n[dim]{unit}[/dim]", justify="right", no_wrap=index == 0 or column.title == "Speed"
        )
    for name in ranked(data):
        cells = []
        for index, column in enumerate(columns):
            found = column.figures[name]
            words = shown(found, digits=column.digits, share=column.share)
            if column.title == "Speed" and found is not None:
                words = short(found["value"])
            ends = between(found, digits=column.digits, share=column.share) if index == 0 else ""
            cells.append(Text(f"{words} {ends}".strip(), style="bold" if name in column.best else ""))
        table.add_row(Text(name), *cells)
    return table


def _optimised(data: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Optimised against", no_wrap=True, max_width=28)
    for head in ("proxy\nlast", "gold\nat best", "gold\nlast", "gold lost\nsd, 95 %"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for pool in data["overoptimization"].values():
        for name, curve in pool["curves"].items():
            top = max(curve["gold"], key=lambda found: found["value"])
            drop = curve["drop"]
            ends = between(drop, digits=2, share=False)
            cells = [
                shown(found, digits=2, share=False, signed=True)
                for found in (curve["proxy"][-1], top, curve["gold"][-1])
            ]
            cells.append(f"{shown(drop, digits=2, share=False)} {ends}")
            table.add_row(
                Text(name),
                *(Text(words) for words in cells),
                Text("over-optimised" if curve["shape_known"] else "", style="bold red"),
            )
    return table
