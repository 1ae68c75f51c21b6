"""What the best of several answers is worth: pass@k, best-of-n curves, and the KL that best-of-n costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.statistics import mean_estimate


class BestOfNCurve(NamedTuple):
    """Expected result of taking the best of n answers.

    Attributes:
        n: Sizes, shape ``(K,)``.
        values: Mean over prompts, shape ``(K,)``.
        standard_errors: Over prompts, NaN for a single one, shape ``(K,)``.
        kl: Upper bound of KL(best-of-n ‖ policy) in nats per answer, shape ``(K,)``.
        ends: 95 % interval of the values over prompts, NaN where it is not known, shape ``(2, K)``.
    """

    n: NDArray[np.int64]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    kl: NDArray[np.float64]
    ends: NDArray[np.float64]


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Probability that at least one of k answers is correct, unbiased from n ≥ k answers: ``1 − C(n−c, k) / C(n, k)``.

    Args:
        samples: Answers per prompt ``n``, any shape.
        correct: Correct ones ``c``, same shape.
        k: Answers that one may give.

    Returns:
        One probability per prompt, of the same shape.

    Raises:
        ConfigError: If k is below 1 or above an n, or c lies outside 0 … n.
    Source: Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, np.int64), np.asarray(correct, np.int64))
    if k < 1 or (n < k).any():
        raise ConfigError(f"`k` must lie in 1 … the number of samples ({n.min()}), got {k}")
    if (c < 0).any() or (c > n).any():
        raise ConfigError("`correct` must lie in 0 … `samples` for every prompt")
    factors = 1.0 - k / np.maximum(n[..., None] - np.arange(int(c.max(initial=0))), 1)
    counted = np.arange(factors.shape[-1]) < c[..., None]
    # Π_{i=n−c+1}^{n} (1 − k/i): where fewer than k are wrong a factor is 0 or negative, and the miss is impossible.
    miss = np.where(counted, factors, 1.0).prod(axis=-1)
    return 1.0 - np.where(n - c < k, 0.0, miss)


def expected_best(scores: ArrayLike, k: int, *, values: ArrayLike | None = None) -> NDArray[np.float64]:
    """Expected result of the best of k answers drawn without replacement from n: unbiased for k fresh answers.

    Args:
        scores: What "best" is judged by, shape ``(..., n)``.
        k: Answers to choose from, 1 … n.
        values: What the chosen answer is worth (a gold score), same shape; None takes the scores themselves. Among
            equal scores each is chosen equally often.

    Returns:
        One per prompt, shape ``(...)``.

    Raises:
        ConfigError: If k is out of range.
        ShapeError: If the shapes disagree.
    Source: with sorted scores ``Σ_i x_(i) C(i−1, k−1) / C(n, k)``; Nakano et al. 2021, arXiv:2112.09332, appendix I.
    """
    judged = np.asarray(scores, np.float64)
    worth = judged if values is None else np.asarray(values, np.float64)
    if judged.ndim < 1 or worth.shape != judged.shape:
        raise ShapeError(f"`values` has shape {worth.shape}, expected {judged.shape} to match `scores`")
    n = judged.shape[-1]
    if not 1 <= k <= n:
        raise ConfigError(f"`k` must lie in 1 … {n}, the number of answers per prompt, got {k}")
    order = np.argsort(judged, axis=-1, kind="stable")
    ranked = np.take_along_axis(judged, order, -1)
    weights = np.broadcast_to(_rank_weights(n, k), ranked.shape)
    if values is not None:
        weights = _shared_among_equals(ranked, weights)
    return (np.take_along_axis(worth, order, -1) * weights).sum(-1)


def best_of_n_curve(
    scores: ArrayLike, *, sizes: ArrayLike | None = None, values: ArrayLike | None = None
) -> BestOfNCurve:
    """Expected result of best-of-n for several n, from all answers at hand.

    Args:
        scores: One row of answers per prompt, shape ``(P, n)``.
        sizes: Which n; None takes 1, 2, 4, … and the number of answers.
        values: Gold scores, same shape; None takes the scores themselves.

    Raises:
        ConfigError: If a size is out of range.
        ShapeError: If the scores are not two-dimensional or the shapes disagree.
    """
    judged = np.asarray(scores, np.float64)
    if judged.ndim != 2 or 0 in judged.shape:
        raise ShapeError(f"`scores` must have shape (prompts, answers), got {judged.shape}")
    n = judged.shape[1]
    powers = [2**i for i in range(n.bit_length()) if 2**i <= n]
    chosen = np.unique(np.array([*powers, n]) if sizes is None else np.asarray(sizes, np.int64))
    found = [mean_estimate(expected_best(judged, int(k), values=values)) for k in chosen]
    return BestOfNCurve(
        chosen,
        np.array([estimate.value for estimate in found]),
        np.array([estimate.standard_error for estimate in found]),
        best_of_n_kl(chosen),
        np.array([estimate.interval()[1:3] for estimate in found]).T,
    )


def best_of_n_kl(n: ArrayLike) -> NDArray[np.float64]:
    """``log n − (n − 1)/n``: upper bound of KL(best-of-n ‖ policy) in nats, exact where no two answers tie.

    Raises:
        ConfigError: If an n is below 1.
    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix G.3; as a bound Beirami et al. 2024, arXiv:2401.01879.
    """
    sizes = np.asarray(n, np.float64)
    if (sizes < 1).any():
        raise ConfigError(f"`n` must be ≥ 1, got {sizes.min():g}")
    return np.log(sizes) - (sizes - 1) / sizes


def _rank_weights(n: int, k: int) -> NDArray[np.float64]:
    """Probability that the best of k out of n is the one of each rank (lowest first), shape ``(n,)``."""
    weights = np.zeros(n)
    weights[-1] = k / n
    for i in range(n - 1, k - 1, -1):  # C(i−1, k−1) / C(n, k) from that of i + 1
        weights[i - 1] = weights[i] * (i - k + 1) / i
    return weights


def _shared_among_equals(ranked: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights averaged over runs of equal scores."""
    flat, out = ranked.reshape(-1, ranked.shape[-1]), np.array(weights).reshape(-1, ranked.shape[-1])
    starts = np.ones(flat.shape, bool)
    starts[:, 1:] = flat[:, 1:] != flat[:, :-1]
    run = starts.ravel().cumsum() - 1
    means = np.bincount(run, weights=out.ravel()) / np.bincount(run)
    return means[run].reshape(ranked.shape)
