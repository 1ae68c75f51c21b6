"""How far raters of the same units say the same: Krippendorff's alpha and pairwise agreement, with their uncertainty.

A unit is what is judged: an item, or a pair of an item's answers. Choices have no natural direction (which of two
answers is called the first is arbitrary), so :func:`choice_values` lets each stand for both directions: expected
agreement is then that of people who choose without looking. Ordinal alpha is left out: rankings are broken into pairs,
and ratings train reward models as intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.statistics import Estimate, grouped_mean

Level = Literal["nominal", "interval"]
Floats = NDArray[np.float64]


def krippendorff_alpha(units: Sequence[Sequence[float]], *, level: Level = "interval") -> float:
    """Krippendorff's alpha: one minus observed over expected disagreement.

    Args:
        units: The values that raters gave to each unit; units with fewer than two are passed over.
        level: ``nominal``: values are equal or not; ``interval``: disagreement is the squared difference.

    Returns:
        At most 1; NaN if all values are the same or no unit has two.

    Raises:
        ConfigError: If the level is unknown.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section E.
    """
    values = np.concatenate([np.asarray(unit, dtype=np.float64) for unit in units] or [np.empty(0)])
    return alpha_estimate(values, np.repeat(np.arange(len(units)), [len(unit) for unit in units]), level=level).value


def alpha_estimate(
    values: ArrayLike, units: ArrayLike, *, level: Level = "interval", clusters: ArrayLike | None = None
) -> Estimate:
    """:func:`krippendorff_alpha` with the standard error of its linearisation over clusters of units.

    Args:
        values: What was said, shape ``(n,)``.
        units: Of which unit, integers, shape ``(n,)``; units with one value are passed over.
        level: As in :func:`krippendorff_alpha`.
        clusters: What belongs together, e.g. the item of a pair, integers, shape ``(n,)``; None: units.

    Returns:
        Alpha, NaN where it is undefined; the error is NaN below two clusters, and 0 where nobody ever disagreed.

    Raises:
        ConfigError: If the level is unknown.
        ShapeError: If the shapes disagree.
    Source: the linearisation is the infinitesimal jackknife (Efron 1982, "The Jackknife, the Bootstrap and Other
    Resampling Plans", chapter 6) of the formula above.
    """
    if level not in ("nominal", "interval"):
        raise ConfigError(f"`level` must be nominal or interval, got {level!r}.")
    paired = _paired(values, units, clusters)
    if paired is None:
        return Estimate(math.nan, math.nan, 0)
    x, unit, sizes, cluster_of_unit = paired
    observed, expected, expected_change = (_nominal if level == "nominal" else _squared)(x, unit, sizes)
    total, number = float(expected), float(len(x))
    clusters_seen = int(cluster_of_unit.max()) + 1
    if total <= 0:
        return Estimate(math.nan, math.nan, clusters_seen)
    # α = 1 − A (N − 1) / B with A = Σ disagreement/(n − 1) of the units, B = the pooled values' disagreement.
    within = observed / (sizes - 1)
    lost = float(within.sum())
    alpha = 1 - lost * (number - 1) / total
    change = -((number - 1) / total * within + lost / total * sizes - lost * (number - 1) / total**2 * expected_change)
    if clusters_seen < 2:
        return Estimate(alpha, math.nan, clusters_seen)
    influence = np.bincount(cluster_of_unit, change)
    return Estimate(alpha, float(influence.std(ddof=1) * math.sqrt(clusters_seen)), clusters_seen)


class Choices(NamedTuple):
    """Choices between two answers, each seen from both sides: what :func:`alpha_estimate` takes.

    Attributes:
        values: 1 for the answer that the side names, 0 for the other, ½ for a tie; shape ``(2n,)``.
        units: Two per pair of answers, one a side; shape ``(2n,)``.
        clusters: As given, twice.
    """

    values: Floats
    units: NDArray[np.int64]
    clusters: NDArray[np.int64]


def choice_values(values: ArrayLike, units: ArrayLike, clusters: ArrayLike | None = None) -> Choices:
    """Choices from both sides, so that it does not matter which answer is called the first.

    Args:
        values: 1 where the first answer was preferred, 0 the second, ½ neither; shape ``(n,)``.
        units: The pair of answers, integers, shape ``(n,)``.
        clusters: What belongs together, integers, shape ``(n,)``; None: pairs.
    """
    x, pairs = np.asarray(values, np.float64), np.asarray(units, np.int64)
    together = pairs if clusters is None else np.asarray(clusters, np.int64)
    return Choices(
        np.concatenate([x, 1 - x]), np.concatenate([2 * pairs, 2 * pairs + 1]), np.concatenate([together, together])
    )


def agreement_with_others(steps: ArrayLike, units: ArrayLike, *, tolerance: int = 0) -> Floats:
    """For each value the share of the unit's other values that say the same; NaN where there is no other.

    Args:
        steps: What was said, whole numbers, shape ``(n,)``.
        units: Of which unit, integers, shape ``(n,)``.
        tolerance: Values that lie no further apart say the same.
    """
    value, unit = np.asarray(steps, np.int64), np.asarray(units, np.int64)
    if value.shape != unit.shape or value.ndim != 1:
        raise ShapeError(f"`units` has shape {unit.shape}, expected {value.shape} to match `steps`")
    if not len(value):
        return np.empty(0)
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    width = int(value.max() - value.min()) + 2 * tolerance + 1
    keys = unit * width + (value - value.min()) + tolerance
    known, counts = np.unique(keys, return_counts=True)
    same = np.zeros(len(value))
    for shift in range(-tolerance, tolerance + 1):
        place = np.searchsorted(known, keys + shift).clip(0, len(known) - 1)
        same += np.where(known[place] == keys + shift, counts[place], 0)
    others = sizes[unit] - 1
    return np.divide(same - 1, others, out=np.full(len(value), np.nan), where=others > 0)


def pairwise_agreement(
    steps: ArrayLike, units: ArrayLike, *, tolerance: int = 0, clusters: ArrayLike | None = None
) -> Estimate:
    """Probability that two raters of one unit say the same, averaged over units.

    Args:
        steps: As in :func:`agreement_with_others`.
        units: Likewise.
        tolerance: Likewise.
        clusters: What belongs together, integers, shape ``(n,)``; None: units.

    Returns:
        The mean with its standard error over clusters; NaN without a unit of two.
    """
    same = agreement_with_others(steps, units, tolerance=tolerance)
    kept = np.isfinite(same)
    if not kept.any():
        return Estimate(math.nan, math.nan, 0)
    unit = np.asarray(units, np.int64)[kept]
    _, first, index, sizes = np.unique(unit, return_index=True, return_inverse=True, return_counts=True)
    means = np.bincount(index, same[kept]) / sizes
    return grouped_mean(means, None if clusters is None else np.asarray(clusters)[kept][first])


def _paired(
    values: ArrayLike, units: ArrayLike, clusters: ArrayLike | None
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Values of units with at least two, units from 0, values per unit, cluster of each unit from 0."""
    x, given = np.asarray(values, np.float64), np.asarray(units)
    together = given if clusters is None else np.asarray(clusters)
    if x.ndim != 1 or given.shape != x.shape or together.shape != x.shape:
        raise ShapeError(
            f"`units` and `clusters` must have shape {x.shape} as `values`: {given.shape}, {together.shape}"
        )
    if not len(x):
        return None
    _, unit, sizes = np.unique(given, return_inverse=True, return_counts=True)
    kept = sizes[unit] > 1
    if not kept.any():
        return None
    _, first, unit, sizes = np.unique(unit[kept], return_index=True, return_inverse=True, return_counts=True)
    _, cluster_of_unit = np.unique(together[kept][first], return_inverse=True)
    return x[kept], unit, sizes, cluster_of_unit


def _nominal(x: Floats, unit: NDArray, sizes: NDArray) -> tuple[Floats, float, Floats]:
    """Ordered pairs that differ: per unit, among all values, and how the latter grows with each unit's weight."""
    _, code, counts = np.unique(x, return_inverse=True, return_counts=True)
    cells, many = np.unique(unit * len(counts) + code, return_counts=True)
    number, alike = len(x), np.asarray(np.bincount(cells // len(counts), many**2.0), np.float64)
    pooled = float(number**2 - np.sum(counts**2.0))
    expected_change = 2.0 * number * sizes - 2.0 * np.bincount(unit, counts[code])
    return sizes**2.0 - alike, pooled, np.asarray(expected_change, np.float64)


def _squared(x: Floats, unit: NDArray, sizes: NDArray) -> tuple[Floats, float, Floats]:
    """The same for squared differences: Σᵢⱼ (xᵢ − xⱼ)² = 2 n Σ (x − mean)²."""
    x = x - x.mean()
    means = np.bincount(unit, x) / sizes
    per_unit = np.asarray(2.0 * sizes * np.bincount(unit, (x - means[unit]) ** 2), np.float64)
    squares = float(np.sum(x**2))
    expected_change = 2.0 * (squares * sizes + len(x) * np.bincount(unit, x**2))
    return per_unit, 2 * len(x) * squares, np.asarray(expected_change, np.float64)
