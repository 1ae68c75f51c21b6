"""Whether a model likes long responses: correlations with length, and accuracy where the longer one is right or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.measures.accuracy import correctness
from textenv.statistics import ClusterBootstrap, Interval, Resampled

_MIN_CORRELATED = 8


class LengthBias(NamedTuple):
    """How scores depend on the number of words.

    Attributes:
        correlation: Pearson correlation of score and words.
        partial: The same with the gold value held fixed; NaN without gold values.
        gold_correlation: Correlation of gold value and words, what people themselves do; NaN without.
        longer_right: Accuracy on pairs whose better response is the longer one.
        longer_wrong: Accuracy on pairs whose better response is the shorter one.
        difference: The first minus the second; 0 for a model that does not look at the length.
        prefers_longer: Share of pairs of unequal length in which the longer one scores more, ties half.
    """

    correlation: Interval
    partial: Interval
    gold_correlation: Interval
    longer_right: Interval
    longer_wrong: Interval
    difference: Interval
    prefers_longer: Interval


def length_bias(scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap) -> LengthBias:
    """Length bias of one model.

    Correlations are taken within prompts where prompts have several responses (their means are taken off first).

    Args:
        scores: One per item, NaN where missing, shape ``(n,)``.
        suite: Its texts and pairs.
        bootstrap: Over the suite's clusters.
    """
    words = np.array([len(response.split()) for response in suite.responses], dtype=np.float64)
    usable = np.isfinite(scores)
    columns = [np.where(usable, scores, 0.0), words]
    columns += [suite.gold] if suite.gold is not None else []
    kept = [column.copy() for column in columns]
    if len(suite.pairs) and suite.within_prompts:
        sizes = np.maximum(np.bincount(suite.clusters, usable, bootstrap.count), 1)
        kept = [c - (np.bincount(suite.clusters, c * usable, bootstrap.count) / sizes)[suite.clusters] for c in kept]
    correlations = _correlations(np.stack(kept, axis=1) * usable[:, None], usable, bootstrap)
    pairs = suite.pairs
    longer = np.sign(words[pairs.better] - words[pairs.worse])
    right = correctness(scores, pairs)
    long = _mean(right, longer > 0, suite, bootstrap)
    short = _mean(right, longer < 0, suite, bootstrap)
    difference = (long - short)._replace(n=int((longer != 0).sum()))
    prefers = _mean(np.where(longer > 0, right, 1 - right), longer != 0, suite, bootstrap)
    return LengthBias(
        *correlations,
        long.interval((0, 1)),
        short.interval((0, 1)),
        difference.interval((-1, 1)),
        prefers.interval((0, 1)),
    )


def _correlations(
    table: NDArray[np.float64], usable: NDArray[np.bool_], bootstrap: ClusterBootstrap
) -> tuple[Interval, Interval, Interval]:
    """Score-length, partial given gold, and gold-length, from resampled moments."""
    count, width = int(usable.sum()), table.shape[1]
    if count < _MIN_CORRELATED:
        nothing = Interval(float("nan"))
        return nothing, nothing, nothing
    moments = np.hstack([usable[:, None], table, *(table[:, [i]] * table[:, i:] for i in range(width))])
    totals, draws = bootstrap.item_sums(moments)
    stacked = np.vstack([totals, draws])
    mean = stacked[:, 1 : 1 + width] / np.maximum(stacked[:, [0]], 1)
    covariance = np.empty((len(stacked), width, width))
    at = 1 + width
    for i in range(width):
        for j in range(i, width):
            value = stacked[:, at] / np.maximum(stacked[:, 0], 1) - mean[:, i] * mean[:, j]
            covariance[:, i, j] = covariance[:, j, i] = value
            at += 1
    scale = np.sqrt(np.maximum(np.einsum("rii->ri", covariance), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A constant column correlates with nothing.
        r = np.where(scale[:, :, None] * scale[:, None] > 1e-12, covariance / (scale[:, :, None] * scale[:, None]), 0.0)
    clusters = len(np.unique(bootstrap.clusters[usable]))

    def measured(values: NDArray[np.float64]) -> Interval:
        return Resampled(values[0], values[1:], count, clusters).interval((-1, 1))

    own = measured(r[:, 0, 1])
    if width < 3:
        return own, Interval(float("nan")), Interval(float("nan"))
    return own, measured(partial_correlation(r[:, 0, 1], r[:, 0, 2], r[:, 1, 2])), measured(r[:, 1, 2])


def partial_correlation(xy: NDArray, xz: NDArray, yz: NDArray) -> NDArray[np.float64]:
    """``(r_xy − r_xz r_yz) / √((1 − r_xz²)(1 − r_yz²))``: correlation of x and y with z held fixed; 0 where x is z."""
    spread = np.sqrt(np.maximum((1 - xz**2) * (1 - yz**2), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-9, (xy - xz * yz) / spread, 0.0)


def _mean(
    values: NDArray[np.float64], kept: NDArray[np.bool_], suite: SuiteData, bootstrap: ClusterBootstrap
) -> Resampled:
    chosen = np.flatnonzero(kept)
    return bootstrap.pair_mean(suite.pairs.better[chosen], suite.pairs.worse[chosen], values[chosen])
