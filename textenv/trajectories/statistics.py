"""Figures about sets of answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import ConfigError


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of word n-grams that are distinct, over all texts together: low where answers repeat each other.

    Args:
        texts: Answers; compare only sets of equal size, since the share falls as a set grows.
        n: Words per n-gram, at least 1.

    Returns:
        Distinct n-grams divided by all n-grams; 0 where there are none.

    Raises:
        ConfigError: If n is below 1.
    Source: Li et al. 2016, arXiv:1510.03055.
    """
    if n < 1:
        raise ConfigError(f"`n` must be ≥ 1, got {n}")
    grams = [
        tuple(words[i : i + n]) for words in (text.lower().split() for text in texts) for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: Shape ``(n,)``.
        rng: For the resamples.
        resamples: Number of bootstrap resamples.
        confidence: Coverage.
    """
    array = np.asarray(values, np.float64)
    means = array[rng.integers(len(array), size=(resamples, len(array)))].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
