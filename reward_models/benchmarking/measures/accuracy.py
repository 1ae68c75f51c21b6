"""How often a model orders pairs as people do: whole, per subset, per gap of the ratings, and how often it ties."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import Pairs, SuiteData
from textenv.statistics import ClusterBootstrap, Interval, Resampled

GAPS = (0.0, 0.5, 1.0, 2.0)
"""Smallest differences of the gold values (exclusive) that are reported."""


class AccuracyResult(NamedTuple):
    """Pair accuracies of one model on one suite.

    Attributes:
        overall: Over all pairs, ties counting one half.
        resampled: The same with its draws, for paired comparisons.
        tie_rate: Share of pairs with equal scores, pairs without a score included.
        strict: Ties counting as wrong, the convention of RewardBench 1.
        by_gap: Gap → accuracy over pairs whose gold values differ by more; empty without gold values.
        by_subset: Subset → accuracy; empty if there is one subset.
        sections: Section → accuracy weighted by the subsets' weights, ties wrong; empty without weights.
        section_mean: Plain mean of the sections; None without.
    """

    overall: Interval
    resampled: Resampled
    tie_rate: Interval
    strict: Interval
    by_gap: dict[float, Interval]
    by_subset: dict[str, Interval]
    sections: dict[str, Interval]
    section_mean: Interval | None


def correctness(scores: NDArray[np.float64], pairs: Pairs) -> NDArray[np.float64]:
    """1 where the better item scores more, ½ where the scores are equal or one is missing, else 0; shape ``(P,)``."""
    difference = scores[pairs.better] - scores[pairs.worse]
    return 0.5 * (np.sign(np.nan_to_num(difference)) + 1)


def suite_accuracy(scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap) -> AccuracyResult:
    """Pair accuracies with intervals.

    A model that gives every response the same score gets 0.5. A missing score counts as a tie.

    Args:
        scores: One per item, NaN where missing, shape ``(n,)``.
        suite: Its pairs.
        bootstrap: Over the suite's clusters.
    """
    pairs = suite.pairs
    right = correctness(scores, pairs)
    tied = (right == 0.5).astype(np.float64)
    whole = np.ones(len(pairs), dtype=bool)
    overall = _share(right, whole, pairs, bootstrap)
    gaps = {}
    if np.isfinite(pairs.gap).any():
        gaps = {gap: _share(right, pairs.gap > gap, pairs, bootstrap).interval((0, 1)) for gap in GAPS}
    subsets, sections = {}, {}
    if len(pairs.subsets) > 1 or suite.weights:
        subsets = {
            name: _share(right, pairs.subset == index, pairs, bootstrap).interval((0, 1))
            for index, name in enumerate(pairs.subsets)
        }
    strict_right = (right == 1.0).astype(np.float64)
    for section, weights in suite.weights.items():
        present = {name: weight for name, weight in weights.items() if name in pairs.subsets}
        if present:  # Lambert et al. 2024 (RewardBench), arXiv:2403.13787, section 4.2
            parts = [_share(strict_right, pairs.subset == pairs.subsets.index(n), pairs, bootstrap) for n in present]
            sections[section] = Resampled.mean(parts, list(present.values()))
    return AccuracyResult(
        overall.interval((0, 1)),
        overall,
        _share(tied, whole, pairs, bootstrap).interval((0, 1)),
        _share(strict_right, whole, pairs, bootstrap).interval((0, 1)),
        gaps,
        subsets,
        {section: found.interval((0, 1)) for section, found in sections.items()},
        Resampled.mean(list(sections.values())).interval((0, 1)) if sections else None,
    )


def _share(
    values: NDArray[np.float64], kept: NDArray[np.bool_], pairs: Pairs, bootstrap: ClusterBootstrap
) -> Resampled:
    """Mean of values over the kept pairs."""
    chosen = np.flatnonzero(kept)
    return bootstrap.pair_mean(pairs.better[chosen], pairs.worse[chosen], values[chosen])
