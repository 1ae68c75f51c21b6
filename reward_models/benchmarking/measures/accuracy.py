"""How often a model orders pairs as people do: whole, per subset, per gap of the ratings, and how often it ties."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import Pairs, SuiteData
from reward_models.benchmarking.resampling import ClusterBootstrap, Figure, figure, ratio_figure

GAPS = (0.0, 0.5, 1.0, 2.0)
"""Smallest differences of the gold values (exclusive) that are reported."""


class AccuracyResult(NamedTuple):
    """Pair accuracies of one model on one suite.

    Attributes:
        overall: Over all pairs, ties counting one half.
        draws: Of it, shape ``(R,)``, for paired comparisons.
        tie_rate: Share of pairs with equal scores, pairs without a score included.
        strict: Ties counting as wrong, the convention of RewardBench 1.
        by_gap: Gap → accuracy over pairs whose gold values differ by more; empty without gold values.
        by_subset: Subset → accuracy; empty if there is one subset.
        sections: Section → accuracy weighted by the subsets' weights, ties wrong; empty without weights.
        section_mean: Plain mean of the sections; None without.
    """

    overall: Figure
    draws: NDArray[np.float64]
    tie_rate: Figure
    strict: Figure
    by_gap: dict[float, Figure]
    by_subset: dict[str, Figure]
    sections: dict[str, Figure]
    section_mean: Figure | None


def correctness(scores: NDArray[np.float64], pairs: Pairs) -> NDArray[np.float64]:
    """1 where the better item scores more, ½ where the scores are equal or one is missing, else 0; shape ``(P,)``."""
    difference = scores[pairs.better] - scores[pairs.worse]
    return 0.5 * (np.sign(np.nan_to_num(difference)) + 1)


def pair_accuracy(scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap) -> AccuracyResult:
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
    overall, draws = _share(right, whole, pairs, bootstrap)
    gaps = {}
    if np.isfinite(pairs.gap).any():
        gaps = {gap: _share(right, pairs.gap > gap, pairs, bootstrap)[0] for gap in GAPS}
    subsets, sections = {}, {}
    if len(pairs.subsets) > 1 or suite.weights:
        subsets = {
            name: _share(right, pairs.subset == index, pairs, bootstrap)[0] for index, name in enumerate(pairs.subsets)
        }
    strict_right = (right == 1.0).astype(np.float64)
    section_draws = []
    for section, weights in suite.weights.items():
        found = _section(strict_right, weights, pairs, bootstrap)
        if found is not None:
            sections[section], drawn = found
            section_draws.append(drawn)
    mean = None
    if sections:
        value = float(np.mean([found.value for found in sections.values()]))
        mean = figure(value, np.mean(section_draws, axis=0), n=len(pairs), bounds=(0, 1))
    return AccuracyResult(
        overall,
        draws,
        _share(tied, whole, pairs, bootstrap)[0],
        _share(strict_right, whole, pairs, bootstrap)[0],
        gaps,
        subsets,
        sections,
        mean,
    )


def _share(
    values: NDArray[np.float64], kept: NDArray[np.bool_], pairs: Pairs, bootstrap: ClusterBootstrap
) -> tuple[Figure, NDArray[np.float64]]:
    """Mean of values over the kept pairs, with its draws."""
    chosen = np.flatnonzero(kept)
    table = np.stack([values[chosen], np.ones(len(chosen))], axis=1)
    totals, draws = bootstrap.pair_sums(pairs.better[chosen], pairs.worse[chosen], table)
    return ratio_figure((totals[0], draws[:, 0]), (totals[1], draws[:, 1]), n=len(chosen))


def _section(
    right: NDArray[np.float64], weights: dict[str, float], pairs: Pairs, bootstrap: ClusterBootstrap
) -> tuple[Figure, NDArray[np.float64]] | None:
    """Accuracy of a section: its subsets' accuracies weighted; None if the suite has none of its subsets.

    Source: RewardBench, Lambert et al. 2024, arXiv:2403.13787, section 4.2.
    """
    present = [(pairs.subsets.index(name), weight) for name, weight in weights.items() if name in pairs.subsets]
    if not present:
        return None
    total = sum(weight for _, weight in present)
    parts = [(_share(right, pairs.subset == index, pairs, bootstrap), weight / total) for index, weight in present]
    value = sum(found.value * share for (found, _), share in parts)
    draws = np.sum([drawn * share for (_, drawn), share in parts], axis=0)
    return figure(value, draws, n=sum(found.n for (found, _), _ in parts), bounds=(0, 1)), draws
