"""The labels' noise ceiling: the best that any reward model could do against these raters.

Let p be the probability that a rater drawn from these prefers the first of two answers (a tie counts one half). Whoever
knows p, and not who is asked, is right with probability max(p, 1 − p) = ½ + |p − ½|, so the ceiling is ½ + E|p − ½|.
Nobody knows p, but two raters of one pair answer independently given p: with w = answer − ½, E[w w'] = E[(p − ½)²] = D,
whatever the distribution of p. Two inequalities, |p − ½| ≥ 2 (p − ½)² and Jensen's, then bound the ceiling without any
assumption,

    ½ + 2 D  ≤  ceiling  ≤  ½ + √D,

and a symmetric Beta distribution of p with that D gives the estimate in between. Where no rater ever says tie, ½ + 2 D
is the probability that two raters agree.

`reward_models.benchmarking.measures.ceiling` is about something else: labels made of mean ratings, item by item.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from textenv.statistics import Estimate, grouped_mean


class Ceiling(NamedTuple):
    """Accuracy of the best possible reward model against one rater's choices, ties counting one half.

    Attributes:
        value: Estimate; NaN without two raters of the same pair.
        low: Lower end of its interval.
        high: Upper end.
        least: Lower bound that needs no assumption on how opinions are spread.
        most: Upper bound likewise.
        pairs: Pairs of answers that two or more people judged.
        clusters: Independent groups of them.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    pairs: int
    clusters: int


def noise_ceiling(
    values: ArrayLike, units: ArrayLike, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> Ceiling:
    """The noise ceiling of choices.

    Args:
        values: 1 where the first answer was preferred, 0 the second, ½ neither; shape ``(n,)``.
        units: The pair of answers, integers, shape ``(n,)``.
        clusters: What belongs together, e.g. the prompt, integers, shape ``(n,)``; None: pairs.
        confidence: Coverage of the interval.

    Source: derived in the module's docstring; E|p − ½| of a Beta distribution: Johnson, Kotz and Balakrishnan 1995,
    Continuous Univariate Distributions 2, chapter 25.
    """
    spread = opinion_spread(values, units, clusters)
    if math.isnan(spread.value):
        return Ceiling(*[math.nan] * 5, pairs=0, clusters=0)
    d = min(max(spread.value, 0.0), 0.25)
    low = high = math.nan
    if math.isfinite(spread.standard_error) and spread.standard_error > 0:
        low, high = (beta_ceiling(end) for end in spread.interval(confidence)[1:3])
    pairs = int(np.sum(np.unique(np.asarray(units), return_counts=True)[1] > 1))
    return Ceiling(beta_ceiling(d), low, high, 0.5 + 2 * d, 0.5 + math.sqrt(d), pairs, spread.units)


def opinion_spread(values: ArrayLike, units: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Unbiased estimate of D = E[(p − ½)²]: the mean of w w' over two different raters of each pair.

    Args:
        values: As in :func:`noise_ceiling`.
        units: Likewise.
        clusters: Likewise.

    Returns:
        Each pair of answers counts the same; NaN without one that two people judged.
    """
    w = np.asarray(values, np.float64) - 0.5
    if not len(w):
        return Estimate(math.nan, math.nan, 0)
    _, first, unit, sizes = np.unique(np.asarray(units), return_index=True, return_inverse=True, return_counts=True)
    kept = sizes > 1
    if not kept.any():
        return Estimate(math.nan, math.nan, 0)
    sums, squares = np.bincount(unit, w)[kept], np.bincount(unit, w**2)[kept]
    products = (sums**2 - squares) / (sizes[kept] * (sizes[kept] - 1))
    return grouped_mean(products, None if clusters is None else np.asarray(clusters)[first][kept])


def beta_ceiling(spread: float) -> float:
    """½ + E|p − ½| for p from a symmetric Beta distribution with E[(p − ½)²] = `spread`; cut off at 0 and ¼."""
    if spread <= 0:
        return 0.5
    if spread >= 0.25:
        return 1.0
    a = (1 / (4 * spread) - 1) / 2
    log_beta = 2 * math.lgamma(a) - math.lgamma(2 * a)
    return 0.5 + math.exp(-math.log(a) - a * math.log(4) - log_beta)


def best_correlation(alpha: float) -> float:
    """Best correlation of a model's scores with single ratings: √α, with alpha of intervals as their reliability.

    A rating is the item's worth to these raters plus noise; a model can know the worth, which explains the share α of
    the ratings' variance.

    Source: Spearman 1904, American Journal of Psychology 15, 72-101 (correction for attenuation).
    """
    return math.sqrt(alpha) if alpha > 0 else 0.0 if alpha <= 0 else math.nan
