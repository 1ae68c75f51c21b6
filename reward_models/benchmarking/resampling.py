"""The bootstrap that all figures of a benchmark share: resampled clusters, the same resamples for every model.

What belongs together (all responses to one prompt) is drawn together. Because every model is measured on the same
resamples, the difference of two models' draws is the draw of their difference: a paired test costs a subtraction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError

CONFIDENCE = 0.95
"""Coverage of every interval of a benchmark."""


class Figure(NamedTuple):
    """A measured number with its percentile bootstrap interval.

    Attributes:
        value: The estimate; NaN where there is nothing to measure.
        low: Lower end of the 95 % interval; NaN where it cannot be known.
        high: Upper end.
        n: What it rests on: pairs, items or prompts.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0

    def to_json(self) -> dict[str, float | int | None]:
        """The figure as JSON can hold it; NaN becomes null."""
        return {name: finite_or_none(number) for name, number in self._asdict().items()} | {"n": self.n}


def finite_or_none(value: float) -> float | None:
    """The number, or None where it is not finite: JSON knows no NaN."""
    return float(value) if np.isfinite(value) else None


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
        totals = table.sum(0)
        return totals, totals + (self.weights - 1) @ parts

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


def figure(value: float, draws: NDArray[np.float64], *, n: int, bounds: tuple[float, float] | None = None) -> Figure:
    """A figure from an estimate and its draws.

    Args:
        value: The estimate.
        draws: The estimate in every resample, shape ``(R,)``; draws that are not finite are left out.
        n: What it rests on.
        bounds: Where the figure can lie; the interval is cut to it.
    """
    usable = draws[np.isfinite(draws)]
    if not len(usable) or not np.isfinite(value):
        return Figure(float(value), n=int(n))
    low, high = np.quantile(usable, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return Figure(float(value), float(low), float(high), int(n))


def ratio_figure(
    numerator: tuple[float, NDArray[np.float64]],
    denominator: tuple[float, NDArray[np.float64]],
    *,
    n: int,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Figure, NDArray[np.float64]]:
    """A ratio of two resampled sums as a figure, and its draws, shape ``(R,)``.

    Args:
        numerator: Sum and draws.
        denominator: Sum and draws; draws that are not positive have no ratio.
        n: What the figure rests on.
        bounds: As in `figure`.
    """
    value = numerator[0] / denominator[0] if denominator[0] > 0 else float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = np.where(denominator[1] > 0, numerator[1] / denominator[1], np.nan)
    return figure(value, draws, n=n, bounds=bounds), draws


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


def _columns(values: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table
