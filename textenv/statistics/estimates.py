"""Means and ratios with their standard errors, with clusters as units, and shares with intervals; nothing is drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.statistics.intervals import (
    CONFIDENCE,
    Interval,
    check_confidence,
    mid_p_interval,
    share_interval,
    skewed_interval,
)


class Estimate(NamedTuple):
    """A figure measured on a sample.

    Attributes:
        value: The estimate.
        standard_error: Of the estimate; NaN where fewer than two independent units were seen.
        units: Independent units that it rests on.
        skewness: Of the estimate: that of the units' values over √units.
    """

    value: float
    standard_error: float
    units: int
    skewness: float = 0.0

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Student's interval with the skewness taken off; NaN of fewer than two units, or where all say the same.

        Raises:
            ConfigError: If the confidence lies outside 0 … 1.
        Source: see :func:`textenv.statistics.skewed_interval`.
        """
        check_confidence(confidence)
        low = high = math.nan
        if self.units > 1:
            low, high = skewed_interval(self.value, self.standard_error, self.skewness, self.units - 1, confidence)
        return Interval(self.value, low, high, self.units, self.units)


def mean_estimate(values: ArrayLike) -> Estimate:
    """Mean of independent values with its standard error (n − 1 in the denominator).

    Args:
        values: Shape ``(n,)``; an infinite value makes the mean infinite and its error NaN.

    Raises:
        ShapeError: If there is no value, or they are not one row.
    """
    array = row(values)
    value = float(array.mean())
    if len(array) < 2 or not np.isfinite(value):
        return Estimate(value, float("nan"), len(array))
    return _estimate(value, array)


def _estimate(value: float, values: NDArray[np.float64]) -> Estimate:
    """An estimate whose error and skewness are those of the mean of these values."""
    count, spread = len(values), float(values.std())
    error = spread / math.sqrt(count - 1)
    third = float(((values - values.mean()) ** 3).mean())
    return Estimate(value, error, count, third / spread**3 / math.sqrt(count) if spread > 0 else 0.0)


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Sum of numerators over sum of denominators, such as nats per token with answers as units.

    The standard error is that of the linearised ratio, ``s(u) / (√n · mean(y))`` with ``u = (x − r y) (1 − 1/n) /
    (1 − y/Σy)``: a unit with much of the denominator draws the ratio towards itself, so that its residual is too small.

    Args:
        numerators: One per unit, shape ``(n,)``.
        denominators: One per unit, shape ``(n,)``; their sum must not be 0.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
        ConfigError: If the denominators sum to 0.
    Source: Cochran, Sampling Techniques, 3rd edition, eq. 6.13; the divisor makes it the jackknife's: Bell and
    McCaffrey 2002, "Bias reduction in standard errors for linear regression with multi-stage samples", Survey
    Methodology 28.
    """
    x, y = row(numerators), row(denominators)
    if x.shape != y.shape:
        raise ShapeError(f"`numerators` has shape {x.shape}, expected {y.shape} to match `denominators`")
    if y.sum() == 0:
        raise ConfigError("`denominators` sum to 0: there is nothing to divide by")
    value = float(x.sum() / y.sum())
    if len(x) < 2 or not np.isfinite(value):
        return Estimate(value, float("nan"), len(x))
    leverage = np.minimum(y / y.sum(), 1 - 1e-9)
    return _estimate(value, (x - value * y) * (1 - 1 / len(x)) / (1 - leverage) / abs(y.mean()))


def grouped_mean(values: ArrayLike, groups: ArrayLike | None) -> Estimate:
    """Mean over groups of the groups' means, with groups as the unit of the standard error.

    Answers to one prompt resemble each other; taken for independent they make the error too small.

    Args:
        values: Shape ``(n,)``.
        groups: What belongs together, shape ``(n,)``; see :func:`cluster_numbers`.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
    """
    return mean_estimate(group_means(values, cluster_numbers(groups, len(row(values)))))


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
    x, y = row(numerators), row(denominators)
    if x.shape != y.shape:
        return ratio_estimate(x, y)
    index = cluster_numbers(groups, len(x))
    return ratio_estimate(np.bincount(index, weights=x), np.bincount(index, weights=y))


def group_means(values: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Mean of the values of each group, in sorted order of the groups' names.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
    """
    array = row(values)
    index = _numbers(groups, len(array))
    return np.bincount(index, weights=array) / np.bincount(index)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean of ``second − first`` over pairs, such as two policies' mean scores on the same prompts.

    Args:
        first: One value per pair, shape ``(n,)``.
        second: The other, shape ``(n,)``.

    Raises:
        ShapeError: If the shapes disagree or there is no pair.
    """
    a, b = row(first), row(second)
    if a.shape != b.shape:
        raise ShapeError(f"`second` has shape {b.shape}, expected {a.shape} to match `first`")
    return mean_estimate(b - a)


def clustered_share(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    *,
    raters: ArrayLike | None = None,
) -> Interval:
    """Mean of values in 0…1, such as a win rate, with a share's interval for what its clusters are worth.

    Args:
        values: Shape ``(n,)``, each in 0…1.
        clusters: What belongs together, e.g. the prompt, shape ``(n,)``; None: every value stands alone. A single
            cluster is worth one value.
        confidence: Coverage.
        raters: Who gave each value, shape ``(n,)``: what one person says belongs together too. Of a single one the
            figure is about that person.

    Source: see :func:`textenv.statistics.share_interval` and :func:`two_way_error`.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return Interval(math.nan)
    value, count = float(np.clip(x.mean(), 0, 1)), len(x)
    several = None if raters is None or len(np.unique(np.asarray(raters))) < 2 else np.asarray(raters)
    if clusters is None and several is None:
        return Interval(value, *mid_p_interval(value, count, confidence), count, count)
    together = np.arange(count) if clusters is None else np.asarray(clusters)
    error, groups = math.nan, len(np.unique(together))
    if several is not None and groups > 1:
        error, groups = two_way_error(x, together, several)
    elif groups > 1:
        error = grouped_ratio(x, np.ones(count), together).standard_error
    return Interval(value, *share_interval(value, error, math.inf, groups, confidence), count, groups)


def two_way_error(values: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[float, int]:
    """Standard error of a mean whose values hang together in two ways, such as by prompt and by rater.

    Returns:
        The error, never less than that of one way alone, and how many clusters it is known from: one more than its
        degrees of freedom by Satterthwaite's formula, between those of the two ways.

    Args:
        values: Shape ``(n,)``.
        first: What belongs together, at least two clusters, shape ``(n,)``.
        second: What else does, at least two, shape ``(n,)``.
    Source: Cameron, Gelbach and Miller 2011, "Robust Inference With Multiway Clustering", J. Business & Economic
    Statistics 29, eq. 2.13; Satterthwaite 1946, Biometrics Bulletin 2.
    """
    x = row(values)
    keys = [_numbers(each, len(x)) for each in (first, second)]
    counts = [int(key.max()) + 1 for key in keys]
    keys.append(_numbers(keys[0] * counts[1] + keys[1], len(x)))
    one, other, both = (grouped_ratio(x, np.ones(len(x)), key).standard_error ** 2 for key in keys)
    total = max(one + other - both, one, other)
    parts = one**2 / (counts[0] - 1) + (other**2 if other > one else 0.0) / (counts[1] - 1)
    return math.sqrt(total), 1 + max(1, round(total**2 / parts)) if parts > 0 else min(counts)


def mean_interval(values: ArrayLike, groups: ArrayLike | None = None, confidence: float = CONFIDENCE) -> Interval:
    """Mean over all values with groups as units; of values that are all 0 or 1, such as a verified reward, a share's.

    Args:
        values: Shape ``(n,)``.
        groups: What belongs together, shape ``(n,)``; see :func:`cluster_numbers`.
        confidence: Coverage.

    Raises:
        ShapeError: If the shapes disagree or there is no value.
    """
    array = row(values)
    index = cluster_numbers(groups, len(array))
    if np.isin(array, (0.0, 1.0)).all():
        return clustered_share(array, index, confidence)
    return grouped_ratio(array, np.ones(len(array)), index).interval(confidence)._replace(n=len(array))


def cluster_numbers(groups: ArrayLike | None, count: int) -> NDArray[np.int64]:
    """A number from 0 without gaps for the group of each value, in sorted order of the groups' names.

    Args:
        groups: What belongs together, shape ``(n,)``. None takes each value by itself, and so does a single group: the
            figure is then about that group (this prompt) and no other.
        count: n.

    Raises:
        ShapeError: If there are not as many groups as values.
    """
    if groups is None:
        return np.arange(count)
    index = _numbers(groups, count)
    return index if count and index.max() > 0 else np.arange(count)


def _numbers(groups: ArrayLike, count: int) -> NDArray[np.int64]:
    names = np.asarray(groups)
    if names.shape != (count,):
        raise ShapeError(f"`groups` has shape {names.shape}, expected {(count,)} to match `values`")
    return np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)[1]


def row(values: ArrayLike) -> NDArray[np.float64]:
    """Values as one row of numbers.

    Raises:
        ShapeError: If there is none, or they are not one row.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ShapeError(f"values must have shape (n,) with n ≥ 1, got {array.shape}")
    return array
