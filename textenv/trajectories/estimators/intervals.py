"""Estimates with their uncertainty: means, ratios, bootstrap intervals, paired differences."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From resampled values ``(resamples, n)`` to one figure each, ``(resamples,)``."""


class Estimate(NamedTuple):
    """A figure measured on a sample.

    Attributes:
        value: The estimate.
        standard_error: Of the estimate; NaN where fewer than two independent units were seen.
        units: Independent units that it rests on.
    """

    value: float
    standard_error: float
    units: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Normal interval around the value.

        Raises:
            ConfigError: If the confidence lies outside 0 … 1.
        """
        _check_confidence(confidence)
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * self.standard_error
        return self.value - reach, self.value + reach


def mean_estimate(values: ArrayLike) -> Estimate:
    """Mean of independent values with its standard error (n − 1 in the denominator).

    Args:
        values: Shape ``(n,)``; an infinite value makes the mean infinite and its error NaN.

    Raises:
        ShapeError: If there is no value, or they are not one row.
    """
    array = _row(values)
    value = float(array.mean())
    if len(array) < 2 or not np.isfinite(value):
        return Estimate(value, float("nan"), len(array))
    return Estimate(value, float(array.std(ddof=1) / np.sqrt(len(array))), len(array))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Sum of numerators over sum of denominators, such as nats per token with answers as units.

    The standard error is that of the linearised ratio: ``s(x − r y) / (√n · mean(y))``.

    Args:
        numerators: One per unit, shape ``(n,)``.
        denominators: One per unit, shape ``(n,)``; their sum must not be 0.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
        ConfigError: If the denominators sum to 0.
    Source: Cochran, Sampling Techniques, 3rd edition, eq. 6.13.
    """
    x, y = _row(numerators), _row(denominators)
    if x.shape != y.shape:
        raise ShapeError(f"`numerators` has shape {x.shape}, expected {y.shape} to match `denominators`")
    if y.sum() == 0:
        raise ConfigError("`denominators` sum to 0: there is nothing to divide by")
    value = float(x.sum() / y.sum())
    if len(x) < 2 or not np.isfinite(value):
        return Estimate(value, float("nan"), len(x))
    residuals = x - value * y
    return Estimate(value, float(residuals.std(ddof=1) / np.sqrt(len(x)) / abs(y.mean())), len(x))


def grouped_mean(values: ArrayLike, groups: ArrayLike | None) -> Estimate:
    """Mean over groups of the groups' means, with groups as the unit of the standard error.

    Answers to one prompt resemble each other; taken for independent they make the error too small.

    Args:
        values: Shape ``(n,)``.
        groups: What belongs together, shape ``(n,)``. None takes each value by itself, and so does a single group: the
            figure is then about that group (this prompt) and no other.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
    """
    means = None if groups is None else group_means(values, groups)
    return mean_estimate(values if means is None or len(means) == 1 else means)


def grouped_ratio(numerators: ArrayLike, denominators: ArrayLike, groups: ArrayLike | None) -> Estimate:
    """:func:`ratio_estimate` with groups as units: sums over all values, the error from the groups' sums.

    Args:
        numerators: Shape ``(n,)``.
        denominators: Shape ``(n,)``.
        groups: As for :func:`grouped_mean`.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
        ConfigError: If the denominators sum to 0.
    """
    x, y = _row(numerators), _row(denominators)
    if groups is None or x.shape != y.shape:
        return ratio_estimate(x, y)
    index = _group_index(groups, x)
    if index.max() == 0:
        return ratio_estimate(x, y)
    return ratio_estimate(np.bincount(index, weights=x), np.bincount(index, weights=y))


def bootstrap_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic | None = None,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic.

    Args:
        values: Shape ``(n,)``.
        rng: For the resamples.
        statistic: From resamples ``(R, n)`` to figures ``(R,)``; None takes the mean.
        groups: What belongs together, shape ``(n,)``: answers to one prompt are not independent, so whole prompts are
            resampled and the statistic sees their group means, ``(R, groups)``. None resamples single values.
        resamples: Number of resamples.
        confidence: Coverage.

    Raises:
        ShapeError: If there is no value, or the shapes disagree.
        ConfigError: If confidence or resamples are out of range.
    """
    array = _row(values)
    _check_confidence(confidence)
    if resamples < 1:
        raise ConfigError(f"`resamples` must be ≥ 1, got {resamples}")
    if groups is not None:
        array = group_means(array, groups)
    figures = np.empty(resamples)
    rows = max(1, 4_000_000 // len(array))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = array[rng.integers(len(array), size=(size, len(array)))]
        figures[start : start + size] = drawn.mean(1) if statistic is None else statistic(drawn)
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: Shape ``(n,)``.
        rng: For the resamples.
        resamples: Number of bootstrap resamples.
        confidence: Coverage.

    Raises:
        ShapeError: If there is no value.
        ConfigError: If confidence or resamples are out of range.
    """
    return bootstrap_interval(values, rng, resamples=resamples, confidence=confidence)


def group_means(values: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Mean of the values of each group, in sorted order of the groups' names.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
    """
    array = _row(values)
    index = _group_index(groups, array)
    return np.bincount(index, weights=array) / np.bincount(index)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean of ``second − first`` over pairs, such as two policies' mean scores on the same prompts.

    Args:
        first: One value per pair, shape ``(n,)``.
        second: The other, shape ``(n,)``.

    Raises:
        ShapeError: If the shapes disagree or there is no pair.
    """
    a, b = _row(first), _row(second)
    if a.shape != b.shape:
        raise ShapeError(f"`second` has shape {b.shape}, expected {a.shape} to match `first`")
    return mean_estimate(b - a)


def _group_index(groups: ArrayLike, values: NDArray[np.float64]) -> NDArray[np.int64]:
    names = np.asarray(groups)
    if names.shape != values.shape:
        raise ShapeError(f"`groups` has shape {names.shape}, expected {values.shape} to match `values`")
    _, index = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
    return index


def _row(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ShapeError(f"values must have shape (n,) with n ≥ 1, got {array.shape}")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"`confidence` must lie between 0 and 1, got {confidence}")
