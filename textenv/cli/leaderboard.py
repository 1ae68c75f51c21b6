"""``textenv labels leaderboard``: policies by Bradley-Terry and Elo, from a file of battles or from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textenv.settings import NonNegativeInt, Settings


@dataclass(frozen=True)
class LeaderboardOptions(Settings):
    """Options of ``textenv labels leaderboard``.

    Attributes:
        source: A file of rows with ``model_a``, ``model_b`` and ``winner``, or the store that ``textenv serve`` writes.
        json: Print JSON instead of a table.
        seed: Of the orders and resamples of Elo.
    """

    source: str
    json: bool = False
    seed: NonNegativeInt = 0


def leaderboard(options: LeaderboardOptions, console: Console) -> None:
    """``textenv labels leaderboard``.

    Raises:
        DataError: If the source cannot be read, or holds no battles.
    """
    from textenv.feedback.measures import leaderboard as boards

    battles = boards.read_battles(options.source)
    standings = boards.leaderboard(battles, np.random.default_rng(options.seed))
    prompts = len(np.unique(battles.prompts))
    raters = "" if battles.raters is None else f", {len(np.unique(battles.raters)):,} raters"
    if options.json:
        rows = [{**each._asdict(), "rating": each.rating.to_json(), "elo": each.elo.to_json()} for each in standings]
        told = {"battles": len(battles.values), "prompts": prompts, "left_out": dict(battles.left_out)}
        console.print(json.dumps(told | {"policies": rows}), soft_wrap=True, highlight=False, markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=_caption(battles.left_out), caption_justify="left")
    for name in ("", "Bradley-Terry, 95 %", "Elo, 95 %", "battles", "score"):
        table.add_column(name, justify="right" if name else "left")
    leagues = max(each.league for each in standings)
    for number in range(1, leagues + 1):
        if leagues > 1:
            table.add_section()
            table.add_row(f"[bright_black]league {number}: has not met the others[/]")
        for each in (standing for standing in standings if standing.league == number):
            # Names come from files: they are no markup.
            cells = (each.note, "") if each.note else (f"{each.rating:.0f}", f"{each.elo:.0f}")
            table.add_row(escape(each.policy), *map(escape, cells), f"{each.battles:,}", f"{each.score:.0%}")
    console.print(f"{len(battles.values):,} battles on {prompts:,} prompts{raters}", highlight=False)
    console.print(table)


def _caption(left_out: Mapping[str, int]) -> str:
    """What the numbers mean, and what was passed over."""
    passed = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
    scale = "400 points are odds of ten to one; the mean of those with a rating is 1000; ties count as halves"
    return f"{scale}{f'; left out: {passed}' if passed else ''}"
