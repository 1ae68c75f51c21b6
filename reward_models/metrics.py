"""How often a model orders two responses as people do: pair accuracy with intervals, and what one person achieves.

All pairs of items count, split by how far their mean ratings lie apart. Items share pairs, so the bootstrap resamples
items (or groups of them): resampling pairs would give intervals that are far too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ShapeError
from textenv.statistics import ClusterBootstrap, Interval, Resampled, cluster_numbers

GAPS = (0.0, 0.5, 1.0, 2.0)
"""Smallest differences of the mean ratings (exclusive) that are reported."""

_ROWS = 512


def pair_accuracy(
    scores: ArrayLike,
    means: ArrayLike,
    rng: np.random.Generator,
    *,
    gaps: Sequence[float] = GAPS,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[float, Interval]:
    """Accuracy over all pairs of items whose mean ratings differ by more than each gap.

    A pair is right if the better rated item has the larger score, half right if the scores are equal: a constant
    model gets 0.5.

    Args:
        scores: The model's scores, shape ``(n,)``.
        means: Mean human ratings, shape ``(n,)``.
        rng: For the bootstrap.
        gaps: Differences of `means` (exclusive) to report.
        groups: What belongs together, e.g. each item's prompt, shape ``(n,)``; see
            :func:`textenv.statistics.cluster_numbers`.
        resamples: Bootstrap resamples of the groups; 0 gives intervals of NaN.
        confidence: Coverage of the interval.

    Returns:
        Gap → accuracy, whose `n` counts pairs. Time grows with n², memory with 512 n: 0.15 s for 1,100 items.

    Raises:
        ShapeError: If the shapes disagree.
    """
    found = resampled_accuracy(
        scores, means, ClusterBootstrap(cluster_numbers(groups, len(_vector(means))), rng, resamples=resamples), gaps
    )
    return {gap: accuracy.interval((0, 1), confidence=confidence) for gap, accuracy in found.items()}


def resampled_accuracy(
    scores: ArrayLike, means: ArrayLike, bootstrap: ClusterBootstrap, gaps: Sequence[float] = GAPS
) -> dict[float, Resampled]:
    """:func:`pair_accuracy` in the resamples of a bootstrap that other figures share.

    Args:
        scores: As in :func:`pair_accuracy`.
        means: Likewise.
        bootstrap: Over the items.
        gaps: As in :func:`pair_accuracy`.

    Raises:
        ShapeError: If the shapes disagree.
    """
    truth = _vector(means)
    return _accuracies([(_vector(scores), truth)], truth, bootstrap, gaps)


def human_rater_accuracy(
    ratings: Sequence[Sequence[int]],
    rng: np.random.Generator,
    *,
    gaps: Sequence[float] = GAPS,
    groups: ArrayLike | None = None,
    draws: int = 8,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> dict[float, Interval]:
    """Accuracy of a single human rater against the mean of the others: what a model can be held against.

    In each draw one rater of every item is left out; that rater's rating is the score and the mean of the others is
    the truth. The gap is that of the means of all raters, so the pairs are those that `pair_accuracy` judges models
    on. Equal ratings count one half, as for models.

    Args:
        ratings: All ratings of each item, at least two per item.
        rng: Chooses the raters and the bootstrap resamples.
        gaps: As in `pair_accuracy`.
        groups: Likewise.
        draws: How many raters are tried per item; accuracies are averaged.
        resamples: As in `pair_accuracy`.
        confidence: As in `pair_accuracy`.

    Returns:
        Gap → accuracy.

    Raises:
        ShapeError: If an item has fewer than two ratings.
    """
    counts = np.array([len(item) for item in ratings])
    if len(counts) and counts.min() < 2:
        raise ShapeError(f"item {int(counts.argmin())} has {counts.min()} rating(s); leaving one out needs at least 2.")
    rounds = list(left_out_raters(ratings, rng, draws))
    means = np.array([sum(item) for item in ratings], dtype=np.float64) / np.maximum(counts, 1)
    bootstrap = ClusterBootstrap(cluster_numbers(groups, len(means)), rng, resamples=resamples)
    found = _accuracies(rounds, means, bootstrap, gaps)
    return {gap: accuracy.interval((0, 1), confidence=confidence) for gap, accuracy in found.items()}


def left_out_raters(
    ratings: Sequence[Sequence[float]], rng: np.random.Generator, draws: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """One rater of every item, drawn anew each time, and the mean of that item's others; shapes ``(n,)``.

    Args:
        ratings: All ratings of each item, at least two per item.
        rng: Chooses the raters.
        draws: How often.
    """
    counts = np.array([len(item) for item in ratings])
    totals = np.array([sum(item) for item in ratings], dtype=np.float64)
    for _ in range(draws):
        chosen = rng.integers(counts)
        single = np.array([item[index] for item, index in zip(ratings, chosen, strict=True)], dtype=np.float64)
        yield single, (totals - single) / (counts - 1)


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"expected one number per item, shape (n,), got shape {array.shape}.")
    return array


def _accuracies(
    rounds: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]],
    means: NDArray[np.float64],
    bootstrap: ClusterBootstrap,
    gaps: Sequence[float],
) -> dict[float, Resampled]:
    """Accuracy over all pairs; several rounds of scores and truths over the same items and pairs are averaged.

    Which pairs count is decided by `means`, which order is right by the truth of the round. No list of pairs is made:
    of each item only its parts in the sums are kept.
    """
    rounds, n, clusters = list(rounds), len(means), bootstrap.clusters
    for scores, _ in rounds:
        if len(scores) != n:
            raise ShapeError(f"got {len(scores)} scores for {n} mean ratings; each item needs both.")
    totals, parts = np.zeros(2 * len(gaps)), np.zeros((n, 2 * len(gaps)))
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        correct = np.zeros((len(means[rows]), n))
        for scores, truth in rounds:
            agreement = np.sign(scores[rows, None] - scores) * np.sign(truth[rows, None] - truth)
            correct += 0.5 * (agreement + 1) / len(rounds)
        # Each unordered pair appears once: as (better, worse). Within a cluster it is a part of that one only.
        difference, across = means[rows, None] - means, clusters[rows, None] != clusters
        for index, gap in enumerate(gaps):
            kept = difference > gap
            for column, values in ((index, kept * correct), (len(gaps) + index, kept.astype(np.float64))):
                totals[column] += values.sum()
                parts[rows, column] += values.sum(1)
                parts[:, column] += (values * across).sum(0)
    by_cluster = np.stack([np.bincount(clusters, part, bootstrap.count) for part in parts.T], axis=1).astype(np.float64)
    right, count = np.split(np.vstack(bootstrap.sums_of_parts(totals, by_cluster)), 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(count > 0, right / count, np.nan)
    independent = (by_cluster[:, len(gaps) :] > 0).sum(0)
    return {
        gap: Resampled(float(shares[0, i]), shares[1:, i], round(count[0, i]), int(independent[i]))
        for i, gap in enumerate(gaps)
    }
