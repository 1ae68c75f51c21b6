"""The leaderboard: one row per model, one column per question; also what the terminal and the headline show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from textenv.pages.numbers import Figure


class Column(NamedTuple):
    """A column of the leaderboard.

    Attributes:
        title: Its head.
        unit: A second, smaller line of the head.
        figures: Model → figure.
        share: Whether the figures are shares.
        larger_is_better: None where neither is.
        digits: Decimals.
    """

    title: str
    unit: str
    figures: dict[str, Figure | None]
    share: bool = True
    larger_is_better: bool | None = True
    digits: int = 1

    @property
    def head(self) -> str:
        """Title and unit, a line each."""
        return f"{self.title}\n{self.unit}"

    @property
    def best(self) -> set[str]:
        """Models with the best value; none where larger is neither better nor worse, or all are alike."""
        values = {name: found["value"] for name, found in self.figures.items() if found and found["value"] is not None}
        if self.larger_is_better is None or len(values) < 2 or len(set(values.values())) == 1:
            return set()
        best = (max if self.larger_is_better else min)(values.values())
        return {name for name, value in values.items() if value == best}


def leaderboard(data: Mapping[str, Any]) -> list[Column]:
    """The columns that the figures allow; the first one decides the order."""
    names = list(data["models"])
    suites = data["suites"]
    columns = []
    if suites:
        columns.append(
            Column("Mean", "of the suites, %", {n: _mean([_headline(s, n) for s in suites.values()]) for n in names})
        )
        groups: dict[str, list[Any]] = {}
        for name, suite in suites.items():
            groups.setdefault(suite["group"] or name, []).append(suite)
        for group, members in groups.items():
            unit = "accuracy, %" if len(members) == 1 else f"{len(members)} domains, %"
            columns.append(Column(group, unit, {n: _mean([_headline(s, n) for s in members]) for n in names}))
        far = {n: _mean([_at_gap(s, n, "0.5") for s in suites.values() if _at_gap(s, n, "0.5")]) for n in names}
        if any(far.values()):
            columns.append(Column("Gap > 0.5", "accuracy, %", far))
        error = {n: _mean([_fitted_error(s, n) for s in suites.values() if _fitted_error(s, n)]) for n in names}
        columns.append(Column("ECE", "after T, %", error, larger_is_better=None))
    probes = data["probes"]
    if probes:
        found = probes["models"]
        columns.append(
            Column(
                "Flips",
                "5 changes, %",
                {n: _mean([e["flips"] for e in found[n]["robustness"].values()]) for n in names},
                larger_is_better=None,
            )
        )
        columns.append(Column("Hacks", "caught, %", {n: found[n]["pass_rate"] for n in names}, digits=0))
    for pool in data["overoptimization"].values():
        drops = {n: pool["curves"][n]["drop"] if n in pool["curves"] else None for n in names}
        columns.append(
            Column("Gold lost", f"best of {pool['samples']}, sd", drops, share=False, larger_is_better=None, digits=2)
        )
    speed: dict[str, Figure | None] = {
        n: {"value": data["models"][n]["speed"]["pairs_per_second"], "low": None, "high": None, "n": 0} for n in names
    }
    columns.append(Column("Speed", "pairs / s", speed, share=False, larger_is_better=None, digits=0))
    return columns


def ranked(data: Mapping[str, Any]) -> list[str]:
    """Models, the best first by the leaderboard's first column; those without a figure last."""
    first = leaderboard(data)[0].figures
    return sorted(first, key=lambda name: -_value(first[name]))


def _value(found: Figure | None) -> float:
    return float("-inf") if found is None or found["value"] is None else float(found["value"])


def _headline(suite: Mapping[str, Any], name: str) -> Figure:
    return suite["models"][name]["headline"]


def _at_gap(suite: Mapping[str, Any], name: str, gap: str) -> Figure | None:
    found = suite["models"][name]["accuracy"]["by_gap"].get(gap)
    return found if found and found["value"] is not None else None


def _fitted_error(suite: Mapping[str, Any], name: str) -> Figure | None:
    found = suite["models"][name]["calibration"]
    return None if found is None else found["fitted"]["ece"]


def _mean(figures: Sequence[Figure | None]) -> Figure | None:
    """Mean of figures of independent data: the squares of the interval's half-widths add up."""
    known = [found for found in figures if found is not None and found["value"] is not None]
    if not known:
        return None
    value = float(np.mean([found["value"] for found in known]))
    if any(found["low"] is None for found in known):
        return {"value": value, "low": None, "high": None, "n": sum(found["n"] for found in known)}
    down = float(np.sqrt(sum((found["value"] - found["low"]) ** 2 for found in known))) / len(known)
    up = float(np.sqrt(sum((found["high"] - found["value"]) ** 2 for found in known))) / len(known)
    return {"value": value, "low": value - down, "high": value + up, "n": sum(found["n"] for found in known)}
