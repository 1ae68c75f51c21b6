"""How policies compare: how often one's answers are preferred to another's, and how they are rated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import ShapeError
from textenv.statistics import Interval, clustered_share


class WinRate(NamedTuple):
    """One policy against another.

    Attributes:
        first: The policy that wins at least half of the time.
        second: The other.
        share: How often the first is preferred, ties counting one half; clusters are prompts.
        ties: Interval of ties.
        both_bad: Interval of which somebody said that both answers are bad, whichever is preferred.
    """

    first: str
    second: str
    share: Interval
    ties: float
    both_bad: float


class MeanRating(NamedTuple):
    """How a policy's answers are rated.

    Attributes:
        policy: Its name.
        share: The mean, 0 the lowest step of the scale and 1 the highest; clusters are prompts.
    """

    policy: str
    share: Interval


def win_rates(
    values: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    prompts: ArrayLike,
    sources: Sequence[str],
    both_bad: ArrayLike | None = None,
) -> list[WinRate]:
    """Win rates of all pairs of policies, those with the most judgements first.

    Rankings come broken into pairs. What people say of one prompt hangs together (several raters judge the same
    answers, a ranking gives several pairs), so prompts are what is independent; see :func:`clustered_share` for the
    interval.

    Args:
        values: 1 where the first answer was preferred, 0 the second, ½ neither; shape ``(n,)``.
        first: The first answer's policy, an index into `sources`, shape ``(n,)``.
        second: The second answer's; pairs of one policy with itself are passed over.
        prompts: What belongs together, integers, shape ``(n,)``.
        sources: Names.
        both_bad: Where both answers were called bad, shape ``(n,)``; None: nowhere.

    Raises:
        ShapeError: If the shapes disagree.
    """
    x, of_first, of_second = np.asarray(values, np.float64), np.asarray(first, np.int64), np.asarray(second, np.int64)
    groups = np.asarray(prompts)
    bad = np.zeros(x.shape, np.bool_) if both_bad is None else np.asarray(both_bad, np.bool_)
    _check_shapes(x, of_first, of_second, groups, bad)
    turned = of_first > of_second
    low, high = np.minimum(of_first, of_second), np.maximum(of_first, of_second)
    for_low = np.where(turned, 1 - x, x)
    keys = low * len(sources) + high
    found = []
    for key in np.unique(keys[low != high]):
        chosen = keys == key
        winner, loser = str(sources[key // len(sources)]), str(sources[key % len(sources)])
        wins = for_low[chosen]
        if wins.mean() < 0.5:
            wins, winner, loser = 1 - wins, loser, winner
        share = clustered_share(wins, groups[chosen])
        found.append(WinRate(winner, loser, share, float(np.mean(wins == 0.5)), float(np.mean(bad[chosen]))))
    return sorted(found, key=lambda each: (-each.share.n, each.first, each.second))


def mean_ratings(worth: ArrayLike, policies: ArrayLike, prompts: ArrayLike, sources: Sequence[str]) -> list[MeanRating]:
    """Mean ratings of all policies that were rated, the best first.

    Policies that were rated on different prompts may differ because of these; win rates do not. Answers of nobody (no
    name) are passed over.

    Args:
        worth: Ratings from 0 (lowest) to 1 (highest), shape ``(n,)``.
        policies: Whose answer it is, an index into `sources`, shape ``(n,)``.
        prompts: What belongs together, integers, shape ``(n,)``.
        sources: Names.

    Raises:
        ShapeError: If the shapes disagree.
    """
    x, of, groups = np.asarray(worth, np.float64), np.asarray(policies, np.int64), np.asarray(prompts)
    _check_shapes(x, of, groups)
    rated = [(str(sources[n]), of == n) for n in np.unique(of) if sources[n]]
    found = [MeanRating(name, clustered_share(x[whose], groups[whose])) for name, whose in rated]
    return sorted(found, key=lambda each: (-each.share.value, each.policy))


def _check_shapes(*arrays: np.ndarray) -> None:
    if len({array.shape for array in arrays}) > 1:
        raise ShapeError(f"shapes disagree: {', '.join(str(array.shape) for array in arrays)}")
