"""The bootstrap: resampled clusters, the same resamples for every figure.

What belongs together (all responses to one prompt) is drawn together. Because every model is measured on the same
resamples, the difference of two models' draws is the draw of their difference: a paired test costs a subtraction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.statistics.estimates import (
    cluster_numbers,
    clustered_share,
    group_means,
    grouped_ratio,
    mean_estimate,
    row,
    two_way_error,
)
from textenv.statistics.intervals import CONFIDENCE, Interval, check_confidence

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From resampled values ``(resamples, n)`` to one figure each, ``(resamples,)``."""


class Resampled(NamedTuple):
    """A figure, and what it is in every resample.

    Attributes:
        value: On the sample itself; NaN where there is nothing to measure.
        draws: In every resample, shape ``(R,)``; NaN where one holds nothing to measure.
        n: What it rests on: pairs, items or prompts.
        clusters: Independent clusters among them.
        is_difference: Whether it is one figure minus another.
    """

    value: float
    draws: NDArray[np.float64]
    n: int
    clusters: int
    is_difference: bool = False

    def interval(self, bounds: tuple[float, float] | None = None, *, confidence: float = CONFIDENCE) -> Interval:
        """The figure with its interval; see :meth:`Interval.of_draws`."""
        of_shares = self.is_difference and bounds == (-1, 1)
        return Interval.of_draws(
            self.value,
            self.draws,
            n=self.n,
            clusters=self.clusters,
            bounds=bounds,
            of_shares=of_shares,
            confidence=confidence,
        )

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference of two figures of the same resamples."""
        return Resampled(
            self.value - other.value,
            self.draws - other.draws,
            max(self.n, other.n),
            max(self.clusters, other.clusters),
            is_difference=True,
        )

    def among_raters(self, values: ArrayLike, clusters: ArrayLike, raters: ArrayLike) -> Resampled:
        """The draws of a mean, spread for what each rater's values have in common; unchanged where there is one rater.

        Args:
            values: Whose mean this is, shape ``(n,)``.
            clusters: What was resampled, shape ``(n,)``.
            raters: Who gave each value, shape ``(n,)``.
        """
        if min(len(np.unique(clusters)), len(np.unique(raters))) < 2:
            return self
        error, known_from = two_way_error(values, clusters, raters)
        alone = grouped_ratio(values, np.ones(len(np.asarray(values))), clusters).standard_error
        if not alone > 0:
            return self
        return self._replace(
            draws=self.value + (self.draws - self.value) * error / alone, clusters=min(self.clusters, known_from)
        )

    @classmethod
    def mean(cls, parts: Sequence[Resampled], weights: Sequence[float] | None = None) -> Resampled:
        """Mean of figures, with weights where they are given.

        Args:
            parts: Figures of the same number of resamples, at least one.
            weights: One each; equal for None.
        """
        value = float(np.average([part.value for part in parts], weights=weights))
        draws = np.average([part.draws for part in parts], axis=0, weights=weights)
        # Parts with few clusters each do not become many by being averaged: the least of them says what is known.
        return cls(value, draws, sum(part.n for part in parts), min(part.clusters for part in parts))


class ClusterBootstrap:
    """Resamples of clusters, drawn once and used for every figure.

    Sums over items or over pairs of items are resampled through their parts per cluster. A pair of items of two
    clusters counts in both, so that its sum changes as first order of the product of the two clusters' weights does:
    the linearised bootstrap of a U-statistic, exact where every pair lies within one cluster.

    Args:
        clusters: Which cluster each item belongs to, whole numbers from 0 without gaps, shape ``(n,)``.
        rng: Draws the resamples.
        resamples: How many; 0 gives intervals of NaN.

    Raises:
        ConfigError: If `resamples` is negative.
        ShapeError: If the clusters are not one row.
    """

    def __init__(self, clusters: ArrayLike, rng: np.random.Generator, *, resamples: int = 1000) -> None:
        if resamples < 0:
            raise ConfigError(f"`resamples` must be ≥ 0, got {resamples}.")
        self.clusters = np.asarray(clusters, dtype=np.int64)
        if self.clusters.ndim != 1:
            raise ShapeError(f"`clusters` must have shape (n,), got {self.clusters.shape}.")
        self.count = int(self.clusters.max()) + 1 if len(self.clusters) else 0
        self.weights = np.ones((resamples, self.count), dtype=np.float32)
        """How often each cluster occurs in each resample, shape ``(R, C)``."""
        if self.count and resamples:
            drawn = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)
            self.weights = drawn.astype(np.float32)

    @property
    def item_weights(self) -> NDArray[np.float32]:
        """How often each item occurs in each resample, shape ``(R, n)``."""
        return self.weights[:, self.clusters]

    def of_items(self, kept: NDArray[np.bool_]) -> ClusterBootstrap:
        """The same resamples, for some of the items only."""
        part = copy.copy(self)
        part.clusters = self.clusters[kept]
        return part

    def item_sums(self, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of values over items, and those sums in every resample.

        Args:
            values: One row per item, shape ``(n,)`` or ``(n, K)``.

        Returns:
            The sums, shape ``(K,)``, and their draws, shape ``(R, K)``.
        """
        table = _columns(values)
        parts = np.stack([np.bincount(self.clusters, column, self.count) for column in table.T], axis=1)
        return table.sum(0), (self.weights @ parts).astype(np.float64)

    def item_mean(self, values: ArrayLike, kept: NDArray[np.bool_] | None = None) -> Resampled:
        """Mean of values over items.

        Args:
            values: One per item, shape ``(n,)``.
            kept: Which items count, shape ``(n,)``; those whose value is finite for None.
        """
        array = np.asarray(values, np.float64)
        known = np.isfinite(array) if kept is None else kept
        totals, draws = self.item_sums(np.stack([np.where(known, array, 0.0), known], axis=1))
        return _ratio(totals, draws, len(np.unique(self.clusters[known])))

    def pair_sums(
        self, first: NDArray[np.int64], second: NDArray[np.int64], values: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of values over pairs of items, and those sums in every resample.

        Args:
            first: One item of each pair, shape ``(P,)``.
            second: The other, shape ``(P,)``.
            values: One row per pair, shape ``(P,)`` or ``(P, K)``.

        Returns:
            The sums, shape ``(K,)``, and their draws, shape ``(R, K)``.
        """
        table = _columns(values)
        a, b = self.clusters[first], self.clusters[second]
        across = a != b
        parts = np.empty((self.count, table.shape[1]))
        for index, column in enumerate(table.T):
            parts[:, index] = np.bincount(a, column, self.count)
            if across.any():
                parts[:, index] += np.bincount(b, np.where(across, column, 0.0), self.count)
        return self.sums_of_parts(table.sum(0), parts)

    def sums_of_parts(
        self, totals: NDArray[np.float64], parts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums over pairs as :meth:`pair_sums` gives them, from what each cluster has part in, shape ``(C, K)``."""
        return totals, totals + (self.weights - 1) @ parts

    def pair_mean(self, first: NDArray[np.int64], second: NDArray[np.int64], values: ArrayLike) -> Resampled:
        """Mean of one value per pair of items.

        Args:
            first: As in :meth:`pair_sums`.
            second: Likewise.
            values: Shape ``(P,)``.
        """
        array = np.asarray(values, np.float64)
        totals, draws = self.pair_sums(first, second, np.stack([array, np.ones(len(array))], axis=1))
        return _ratio(totals, draws, self.clusters_of_pairs(first, second))

    def clusters_of_pairs(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
        """Independent clusters of pairs: theirs, but no more than pairs, where each takes two that no other has.

        Args:
            first: As in :meth:`pair_sums`.
            second: Likewise.
        """
        return min(len(first), len(np.unique(np.concatenate([self.clusters[first], self.clusters[second]]))))

    def means(self, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of one value per cluster, NaN left out, and their draws: shapes ``(K,)`` and ``(R, K)``.

        Args:
            values: Shape ``(C,)`` or ``(C, K)``.
        """
        table = _columns(values)
        known = np.isfinite(table)
        sums, counts = self.weights @ np.where(known, table, 0.0), self.weights @ known.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(known, table, 0.0).sum(0) / known.sum(0), sums / counts

    def cluster_means(self, values: ArrayLike) -> list[Resampled]:
        """:meth:`means` as figures, one per column."""
        table = _columns(values)
        found, draws = self.means(table)
        counts = np.isfinite(table).sum(0)
        return [Resampled(float(found[k]), draws[:, k], int(n), int(n)) for k, n in enumerate(counts)]


def bootstrap_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic | None = None,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Bootstrap interval of a statistic; NaN for a single value, and where all values are equal.

    The mean of values that are all 0 or 1, such as a verified reward, is a share and has a share's interval.

    Args:
        values: Shape ``(n,)``.
        rng: For the resamples.
        statistic: From resamples ``(R, n)`` to figures ``(R,)``; None takes the mean, for which nothing is drawn.
        groups: What belongs together, shape ``(n,)``: answers to one prompt are not independent, so whole prompts are
            resampled and the statistic sees their group means, ``(R, groups)``. None resamples single values, and so
            does a single group.
        resamples: Number of resamples.
        confidence: Coverage.

    Raises:
        ShapeError: If there is no value, or the shapes disagree.
        ConfigError: If confidence or resamples are out of range.
    Source: see :meth:`textenv.statistics.Interval.of_draws`.
    """
    array = row(values)
    check_confidence(confidence)
    if resamples < 1:
        raise ConfigError(f"`resamples` must be ≥ 1, got {resamples}")
    groups = cluster_numbers(groups, len(array))
    means = group_means(array, groups)
    if statistic is None:  # whose resamples need not be drawn: their error and skewness are known
        if np.isin(array, (0.0, 1.0)).all():
            return clustered_share(means, np.arange(len(means)), confidence)[1:3]
        return mean_estimate(means).interval(confidence)[1:3]
    figures = np.empty(resamples)
    rows = max(1, 4_000_000 // len(means))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        figures[start : start + size] = statistic(means[rng.integers(len(means), size=(size, len(means)))])
    value, size = float(statistic(means[None])[0]), len(means)
    found = Interval.of_draws(value, figures, n=size, clusters=size, confidence=confidence)
    return found.low, found.high


def two_sided_p(draws: NDArray[np.float64]) -> float:
    """Two-sided bootstrap p-value of "the mean of this difference is 0"; NaN without draws.

    The smallest p that R draws can show is ``2 / (R + 1)``.
    """
    usable = draws[np.isfinite(draws)]
    if not len(usable):
        return float("nan")
    if not usable.any():
        return 1.0
    tail = min((usable <= 0).sum(), (usable >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(usable) + 1)))


def _ratio(totals: NDArray[np.float64], draws: NDArray[np.float64], clusters: int) -> Resampled:
    """Sums in the first column over counts in the second; a resample that holds nothing has no ratio."""
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(draws[:, 1] > 0, draws[:, 0] / draws[:, 1], np.nan)
    value = float(totals[0] / totals[1]) if totals[1] > 0 else float("nan")
    return Resampled(value, drawn, round(totals[1]), clusters)


def _columns(values: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table
