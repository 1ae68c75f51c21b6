"""Every interval that the project prints holds the truth as often as it says; ``benchmarks/coverage.py`` at length."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.coverage import ROWS, Row, coverage

LEAST, MOST = 0.92, 0.98


def floor(trials: int) -> float:
    """The least share of so many samples, with three standard deviations for the luck of the draw."""
    return LEAST - 3 * math.sqrt(LEAST * (1 - LEAST) / trials)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_intervals_hold_the_truth(row: Row):
    # Of each kind the smallest design: what fails, fails there first.
    name, sample = next(iter(row.designs.items()))
    trials = 24 if row.slow else 80
    found = coverage(sample, np.random.default_rng(11), trials)
    assert found.held >= floor(trials), f"{row.name}, {name}: {found}"
    assert found.none < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "name"), [(row, name) for row in ROWS for name in row.designs], ids=lambda x: getattr(x, "name", x)
)
def test_intervals_hold_the_truth_in_every_design(row: Row, name: str):
    trials = 120 if row.slow else 600
    found = coverage(row.designs[name], np.random.default_rng(12), trials)
    assert found.held >= floor(trials), f"{row.name}, {name}: {found}"
