"""How often one policy's answers are preferred to another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import ShapeError
from textenv.feedback.measures.shares import Share, clustered_share


class WinRate(NamedTuple):
    """One policy against another.

    Attributes:
        first: The policy that wins at least half of the time.
        second: The other.
        share: How often the first is preferred, ties counting one half; clusters are prompts.
        ties: Share of ties.
    """

    first: str
    second: str
    share: Share
    ties: float


def win_rates(
    values: ArrayLike, first: ArrayLike, second: ArrayLike, prompts: ArrayLike, sources: Sequence[str]
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

    Raises:
        ShapeError: If the shapes disagree.
    """
    x, of_first, of_second = np.asarray(values, np.float64), np.asarray(first, np.int64), np.asarray(second, np.int64)
    groups = np.asarray(prompts)
    if not x.shape == of_first.shape == of_second.shape == groups.shape:
        raise ShapeError(f"shapes disagree: {x.shape}, {of_first.shape}, {of_second.shape}, {groups.shape}")
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
        found.append(WinRate(winner, loser, share, float(np.mean(wins == 0.5))))
    return sorted(found, key=lambda each: (-each.share.number, each.first, each.second))
