"""What raters prefer besides the better answer: the one that was shown first, and the longer one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from textenv.statistics import Interval, clustered_share

RATIOS = (1.0, 1.25, 1.5, 2.0, 3.0, math.inf)
"""Ends of the classes of length ratios."""


def position_bias(
    values: ArrayLike, first_shown: ArrayLike, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> Interval:
    """How often the answer that was shown earlier is preferred, ties counting one half.

    The order is random and differs between raters, so that without a bias this is one half whatever the answers are
    worth. Pairs whose order nobody knows, such as those of an imported file, are left out.

    Args:
        values: 1 where the first answer (by number) was preferred, 0 the second, ½ neither; shape ``(n,)``.
        first_shown: Whether the first answer was shown before the second, NaN where unknown; shape ``(n,)``.
        clusters: The label that a pair comes from, shape ``(n,)``: one ranking gives several. None: independent pairs.
        confidence: Coverage of the interval.
    """
    x, first = np.asarray(values, np.float64), np.asarray(first_shown, np.float64)
    known = np.isfinite(first)
    together = None if clusters is None else np.asarray(clusters)[known]
    return clustered_share(np.where(first == 1, x, 1 - x)[known], together, confidence)


class LengthBias(NamedTuple):
    """How often the longer answer is preferred.

    Attributes:
        longer: Over all pairs of unequal length, ties counting one half.
        classes: The same for pairs whose longer answer has at least, and less than, so many times the characters of the
            shorter one.
    """

    longer: Interval
    classes: list[tuple[float, float, Interval]]


def length_bias(
    values: ArrayLike, first_length: ArrayLike, second_length: ArrayLike, clusters: ArrayLike | None = None
) -> LengthBias:
    """How often the longer answer is preferred; longer answers may also be better ones, so this is no proof of a bias.

    Args:
        values: As in :func:`position_bias`.
        first_length: Characters of the first answer, shape ``(n,)``.
        second_length: Characters of the second.
        clusters: What belongs together, e.g. the prompt, shape ``(n,)``. None: independent pairs.
    """
    x = np.asarray(values, np.float64)
    a, b = np.asarray(first_length, np.float64), np.asarray(second_length, np.float64)
    unequal = a != b
    longer = np.where(a > b, x, 1 - x)[unequal]
    ratio = np.maximum(a, b)[unequal] / np.maximum(np.minimum(a, b)[unequal], 1)
    together = None if clusters is None else np.asarray(clusters)[unequal]
    classes = []
    for low, high in pairwise(RATIOS):
        kept = (ratio >= low) & (ratio < high)
        if kept.any():
            classes.append((low, high, clustered_share(longer[kept], None if together is None else together[kept])))
    return LengthBias(clustered_share(longer, together), classes)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Interval:
    """Spearman's correlation with its 95 % interval; NaN below 4 values or where one side does not vary.

    Args:
        first: Shape ``(n,)``, e.g. the mean ratings of items.
        second: Shape ``(n,)``, e.g. their lengths.

    Source: Bonett and Wright 2000, Psychometrika 65, 23-28: the variance of Fisher's z is (1 + r²/2) / (n − 3).
    """
    x, y = _midranks(first), _midranks(second)
    if len(x) < 4 or not x.std() > 0 or not y.std() > 0:
        return Interval(math.nan, n=len(x))
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    z, reach = math.atanh(min(max(r, -0.999999), 0.999999)), 1.959964 * math.sqrt((1 + r * r / 2) / (len(x) - 3))
    return Interval(r, math.tanh(z - reach), math.tanh(z + reach), len(x), len(x))


def _midranks(values: ArrayLike) -> np.ndarray:
    _, index, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]
