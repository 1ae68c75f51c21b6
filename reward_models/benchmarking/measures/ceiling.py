"""What people themselves achieve: one rater's accuracy, and the most that any model can reach on noisy labels.

The label of a pair is the sign of a difference of two mean ratings. A handful of raters get close pairs wrong, so even
the true values do not agree with all labels: that is the ceiling. Nobody knows the true values, but the raters'
disagreement says how far they can lie from the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.measures.accuracy import GAPS
from reward_models.metrics import left_out_raters
from textenv.errors import DataError
from textenv.statistics import ClusterBootstrap, Interval, Resampled

_GRID = 240
_EM_STEPS = 60
_PRIOR_FREEDOM = 8.0  # an item's own variance from few raters is shrunk to the pooled one as by this many more
_TRUTH_DRAWS = 60


class Ceiling(NamedTuple):
    """What people achieve on a suite, per gap of the mean ratings.

    Attributes:
        rater: One rater per item against the mean of the others.
        perfect: Somebody who knows the true values against the same labels as the models: the ceiling.
    """

    rater: dict[float, Interval]
    perfect: dict[float, Interval]


def human_ceiling(
    suite: SuiteData, bootstrap: ClusterBootstrap, rng: np.random.Generator, *, draws: int = 8
) -> Ceiling:
    """Accuracy of a single rater and of the true values, with intervals.

    The interval of the ceiling holds two uncertainties: which items are in the suite, and where their true values lie
    given the ratings.

    Args:
        suite: Its items need ratings by at least two raters each.
        bootstrap: Over the suite's clusters.
        rng: Chooses the left-out raters and draws true values.
        draws: Raters tried per item; their accuracies are averaged.

    Raises:
        DataError: If the suite has no ratings, or an item fewer than two.
    """
    if suite.raters is None:
        raise DataError(f"suite {suite.name!r} has no single ratings, so nothing is known of the raters' noise.")
    few = [index for index, item in enumerate(suite.raters) if len(item) < 2]
    if few:
        raise DataError(f"suite {suite.name!r}: item {few[0]} has fewer than 2 ratings, so their noise is unknown.")
    posterior = true_value_posterior(suite.raters)
    return Ceiling(_single_rater(suite, bootstrap, rng, draws), _perfect(suite, bootstrap, rng, posterior))


class Posterior(NamedTuple):
    """What the ratings say of each item's true value.

    Attributes:
        grid: Values, shape ``(G,)``.
        probability: Of each value, shape ``(n, G)``; rows sum to 1.
    """

    grid: NDArray[np.float64]
    probability: NDArray[np.float64]


def true_value_posterior(raters: Sequence[Sequence[float]]) -> Posterior:
    """Posterior of each item's true mean rating: normal errors of the means, a prior estimated from all items.

    The prior is a free distribution on a fine grid, found by some steps of expectation maximisation: few enough that
    it stays smooth.

    Args:
        raters: Ratings of each item, at least two each.
    Source: empirical Bayes as in Efron 2014, Statistical Science 29(2).
    """
    counts = np.array([len(item) for item in raters], dtype=np.float64)
    means = np.array([np.mean(item) for item in raters])
    squares = np.array([np.sum((np.asarray(item) - np.mean(item)) ** 2) for item in raters])
    pooled = squares.sum() / max((counts - 1).sum(), 1.0)
    variances = (squares + _PRIOR_FREEDOM * pooled) / (counts - 1 + _PRIOR_FREEDOM) / counts
    errors = np.sqrt(np.maximum(variances, 1e-12))
    low, high = float((means - 3 * errors).min()), float((means + 3 * errors).max())
    grid = np.linspace(low, high, _GRID)
    step = max(grid[1] - grid[0], 1e-12)
    # A floor of one grid step keeps items without any disagreement from falling between the grid's points.
    deviation = (grid - means[:, None]) / np.maximum(errors, step)[:, None]
    likelihood = np.exp(-0.5 * deviation**2) + 1e-300
    prior = np.full(_GRID, 1 / _GRID)
    for _ in range(_EM_STEPS):
        joint = likelihood * prior
        prior = (joint / joint.sum(1, keepdims=True)).mean(0)
        prior = np.convolve(np.pad(prior, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
        prior /= prior.sum()
    joint = likelihood * prior
    return Posterior(grid, joint / joint.sum(1, keepdims=True))


def _single_rater(
    suite: SuiteData, bootstrap: ClusterBootstrap, rng: np.random.Generator, draws: int
) -> dict[float, Interval]:
    assert suite.raters is not None
    pairs = suite.pairs
    right = np.zeros(len(pairs))
    for single, others in left_out_raters(suite.raters, rng, draws):
        said = np.sign(single[pairs.better] - single[pairs.worse])
        truth = np.sign(others[pairs.better] - others[pairs.worse])
        right += 0.5 * (said * truth + 1) / draws
    return {gap: _kept(right, gap, suite, bootstrap).interval((0, 1)) for gap in GAPS}


def _perfect(
    suite: SuiteData, bootstrap: ClusterBootstrap, rng: np.random.Generator, posterior: Posterior
) -> dict[float, Interval]:
    pairs, probability = suite.pairs, posterior.probability
    cumulative = np.cumsum(probability, axis=1)
    below = cumulative - 0.5 * probability  # P(true < g) + ½ P(true = g)
    n = len(probability)
    order = probability @ below.T if n * n < 4 * len(pairs) + 1_000_000 else None  # P(true_i > true_j), (n, n)
    if order is not None:
        right = order[pairs.better, pairs.worse]
    else:
        right = np.einsum("pg,pg->p", probability[pairs.better], below[pairs.worse])
    # True values drawn from the posterior: how much the accuracy of the truth on these very items may differ.
    truths = []
    for _ in range(_TRUTH_DRAWS):
        place = (cumulative < rng.random((n, 1))).sum(1).clip(0, _GRID - 1)
        truths.append(posterior.grid[place] + (posterior.grid[1] - posterior.grid[0]) * (rng.random(n) - 0.5))
    drawn = np.array([np.bincount(_gap_class(pairs.gap), t[pairs.better] > t[pairs.worse], 5) for t in truths])
    # Column g counts the right pairs of gap class g; classes above a gap are summed below.
    classes = np.bincount(_gap_class(pairs.gap), minlength=5)
    found = {}
    for index, gap in enumerate(GAPS):
        base = _kept(right, gap, suite, bootstrap)
        pairs_above = classes[index + 1 :].sum()
        realised = drawn[:, index + 1 :].sum(1) / max(pairs_above, 1)
        spread = rng.choice(realised - realised.mean(), size=len(base.draws))
        found[gap] = base._replace(draws=base.draws + spread).interval((0, 1))
    return found


def _gap_class(gap: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of `GAPS` each gap exceeds, 0 to 4."""
    return (gap[:, None] > np.array(GAPS)).sum(1)


def _kept(right: NDArray[np.float64], gap: float, suite: SuiteData, bootstrap: ClusterBootstrap) -> Resampled:
    chosen = np.flatnonzero(suite.pairs.gap > gap)
    return bootstrap.pair_mean(suite.pairs.better[chosen], suite.pairs.worse[chosen], right[chosen])
