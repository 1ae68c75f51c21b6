"""How well scores rank: Kendall's tau, Spearman's rho, and what the best of K is worth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reward_models.benchmarking.data import SuiteData
from textenv.statistics import ClusterBootstrap, Interval, Resampled
from textenv.trajectories.estimators.best_of_n import expected_best

SIZES = (2, 4, 8, 16, 64)
"""The K of best-of-K."""


class RankingResult(NamedTuple):
    """Rank agreement of one model with the gold values.

    Attributes:
        kendall: tau-b.
        spearman: rho.
        best_of: K → gold value of the best of K by score, as a share of what choosing by gold itself gains over
            chance: 1 is perfect, 0 is chance.
    """

    kendall: Interval
    spearman: Interval
    best_of: dict[int, Interval]


def ranking(scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap) -> RankingResult | None:
    """Rank agreement with the gold values; None where the suite has none.

    Where prompts have several responses each, ranks are taken within each prompt and averaged over prompts; else over
    all items. Items without a score are left out.

    Args:
        scores: One per item, NaN where missing, shape ``(n,)``.
        suite: Its gold values.
        bootstrap: Over the suite's clusters.
    """
    if suite.gold is None:
        return None
    usable = np.isfinite(scores)
    if usable.sum() < 2:
        nothing = Interval(float("nan"))
        return RankingResult(nothing, nothing, {})
    if len(suite.pairs) and suite.within_prompts:
        return _within_prompts(scores, suite, bootstrap, usable)
    clusters = len(np.unique(bootstrap.clusters[usable]))
    return _over_items(scores[usable], suite.gold[usable], bootstrap.item_weights[:, usable], clusters)


def _within_prompts(
    scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap, usable: NDArray[np.bool_]
) -> RankingResult:
    assert suite.gold is not None
    members = [np.flatnonzero((suite.clusters == c) & usable) for c in range(bootstrap.count)]
    table = np.full((bootstrap.count, 2 + len(SIZES)), np.nan)
    for row, items in enumerate(members):
        if len(items) < 2:
            continue
        own, gold = scores[items], suite.gold[items]
        if np.ptp(gold) > 0:
            # A constant model orders nothing: rank correlation 0, not "undefined".
            varies = np.ptp(own) > 0
            table[row, 0] = _kendall(own, gold) if varies else 0.0
            table[row, 1] = _spearman(own, gold) if varies else 0.0
        for column, size in enumerate(SIZES):
            if size <= len(items):
                table[row, 2 + column] = _gain(own, gold, size)
    found = [mean.interval((-1, 1)) for mean in bootstrap.cluster_means(table)]
    return RankingResult(found[0], found[1], {k: f for k, f in zip(SIZES, found[2:], strict=True) if f.n})


def _kendall(scores: NDArray[np.float64], gold: NDArray[np.float64]) -> float:
    return float(stats.kendalltau(scores, gold)[0])  # pyright: ignore[reportArgumentType]


def _spearman(scores: NDArray[np.float64], gold: NDArray[np.float64]) -> float:
    return float(stats.spearmanr(scores, gold)[0])  # pyright: ignore[reportArgumentType]


def _gain(scores: NDArray[np.float64], gold: NDArray[np.float64], size: int) -> float:
    oracle = float(expected_best(gold, size)) - gold.mean()
    return (float(expected_best(scores, size, values=gold)) - gold.mean()) / oracle if oracle > 0 else float("nan")


def _over_items(
    scores: NDArray[np.float64], gold: NDArray[np.float64], weights: NDArray[np.float32], clusters: int
) -> RankingResult:
    n = len(scores)
    varies = np.ptp(scores) > 0 and np.ptp(gold) > 0
    tau = _kendall(scores, gold) if varies else 0.0
    rho = _spearman(scores, gold) if varies else 0.0
    ours, theirs = weighted_ranks(scores, weights), weighted_ranks(gold, weights)
    rho_draws = _weighted_correlation(ours, theirs, weights) if varies else np.zeros(len(weights))
    tau_draws = _kendall_draws(scores, gold, weights, tau) if varies else np.zeros(len(weights))

    def measured(value: float, draws: NDArray[np.float64]) -> Interval:
        return Resampled(value, draws, n, clusters).interval((-1, 1))

    best = {}
    for size in SIZES:
        if size <= n // 4:
            best[size] = measured(_gain(scores, gold, size), _gain_draws(scores, gold, weights, size))
    return RankingResult(measured(tau, tau_draws), measured(rho, rho_draws), best)


def weighted_ranks(values: NDArray[np.float64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mid-ranks in every resample, without sorting again.

    Args:
        values: Shape ``(n,)``.
        weights: How often each item occurs in each resample, shape ``(R, n)``.

    Returns:
        Rank of each item, equal values sharing the mean of theirs, shape ``(R, n)``.
    """
    order = np.argsort(values, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(values[order]) != 0)])
    starts = np.flatnonzero(np.concatenate([[True], np.diff(group) != 0]))
    sizes = np.add.reduceat(weights[:, order].astype(np.float64), starts, axis=1)
    before = np.cumsum(sizes, axis=1) - sizes
    ranks = np.empty(weights.shape)
    ranks[:, order] = (before + (sizes + 1) / 2)[:, group]
    return ranks


def _weighted_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Pearson correlation in every resample; arguments ``(R, n)``."""
    total = weights.sum(1, keepdims=True)
    a = x - (weights * x).sum(1, keepdims=True) / total
    b = y - (weights * y).sum(1, keepdims=True) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))


def _kendall_draws(
    scores: NDArray[np.float64], gold: NDArray[np.float64], weights: NDArray[np.float32], tau: float
) -> NDArray[np.float64]:
    """tau-b in every resample, linearised: each item's part in the sum over pairs (see `ClusterBootstrap`)."""
    n = len(scores)
    concordant, x_pairs, y_pairs = np.zeros(n), np.zeros(n), np.zeros(n)
    for start in range(0, n, 256):
        rows = slice(start, start + 256)
        a = np.sign(scores[rows, None] - scores)
        b = np.sign(gold[rows, None] - gold)
        concordant[rows], x_pairs[rows], y_pairs[rows] = (a * b).sum(1), np.abs(a).sum(1), np.abs(b).sum(1)
    change = weights - 1
    top, x, y = (0.5 * part.sum() + change @ part for part in (concordant, x_pairs, y_pairs))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((x > 0) & (y > 0), top / np.sqrt(np.maximum(x * y, 0)), tau)


def _gain_draws(
    scores: NDArray[np.float64], gold: NDArray[np.float64], weights: NDArray[np.float32], size: int
) -> NDArray[np.float64]:
    """Share of the oracle's gain in every resample; the best of K drawn with replacement from the resample."""
    total = weights.sum(1)
    mean = (weights @ gold) / total
    ours = _best_with_replacement(scores, gold, weights, size) - mean
    oracle = _best_with_replacement(gold, gold, weights, size) - mean
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(oracle > 0, ours / oracle, np.nan)


def _best_with_replacement(
    judged: NDArray[np.float64], worth: NDArray[np.float64], weights: NDArray[np.float32], size: int
) -> NDArray[np.float64]:
    """Expected worth of the best of `size` draws with replacement, per resample: ``Σ (F^K − F₋^K) · mean worth``."""
    order = np.argsort(judged, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(judged[order]) != 0]))
    sizes = np.add.reduceat(weights[:, order].astype(np.float64), starts, axis=1)
    sums = np.add.reduceat(weights[:, order] * worth[order], starts, axis=1)
    share = np.cumsum(sizes, axis=1) / sizes.sum(1, keepdims=True)
    power = share**size
    chance = np.diff(power, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(sizes > 0, sums / sizes, 0.0)
    return (chance * means).sum(1)
