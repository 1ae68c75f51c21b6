"""How each rater does: gold questions, agreement with the others, time, skips, whether one side of the page wins."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.feedback.measures.agreement import agreement_with_others
from textenv.feedback.measures.bias import position_bias
from textenv.feedback.measures.judgements import Judgements
from textenv.statistics import Interval, clustered_share


class RaterQuality(NamedTuple):
    """What is known of one rater.

    Attributes:
        name: Names them.
        labels: Labels that stand.
        skips: Skips that stand.
        seconds: Median time of a label; NaN without one.
        gold: Interval of right answers to gold questions.
        agreement: How often somebody else says the same of the same thing; clusters are items.
        usual: What that is for all raters, on the kinds of items that this one labelled; NaN without agreement.
        first_shown: How often the answer shown earlier is preferred; clusters are labels.
        below: Whether the agreement is lower than usual beyond chance: its interval lies below at a confidence of
            1 − 0.05 / raters, so that the chance that anybody is named wrongly stays about 5 %.
        one_sided: Whether one side of the page wins beyond chance, likewise.
    """

    name: str
    labels: int
    skips: int
    seconds: float
    gold: Interval
    agreement: Interval
    usual: float
    first_shown: Interval
    below: bool
    one_sided: bool


def rater_quality(judgements: Judgements) -> list[RaterQuality]:
    """How each rater does, those with the most labels first."""
    said, pairs = judgements.labels, judgements.pairs
    same = _same(judgements)
    count = len(judgements.raters)
    labels = _grouped(said.rater, ~said.skipped, count)
    skips = np.bincount(said.rater[said.skipped], minlength=count)
    gold = _grouped(said.rater, np.isfinite(said.credit), count)
    compared = _grouped(same.rater, np.ones(len(same.rater), np.bool_), count)
    placed = _grouped(pairs.rater, np.ones(len(pairs.rater), np.bool_), count)
    strict = 1 - 0.05 / max(count, 1)
    found = []
    for number, name in enumerate(judgements.raters):
        own, shown = compared[number], placed[number]
        usual = float(same.usual[own].mean()) if len(own) else math.nan
        first = (pairs.value[shown], pairs.first_shown[shown], pairs.label[shown])
        position = position_bias(*first)
        agreement = clustered_share(same.share[own], same.item[own])
        found.append(
            RaterQuality(
                name=name,
                labels=len(labels[number]),
                skips=int(skips[number]),
                seconds=float(np.median(said.seconds[labels[number]])) if len(labels[number]) else math.nan,
                gold=clustered_share(said.credit[gold[number]]),
                agreement=agreement,
                usual=usual,
                first_shown=position,
                # The stricter interval is the wider one: it is needed only where the other is clear.
                below=agreement.high < usual and clustered_share(same.share[own], same.item[own], strict).high < usual,
                one_sided=_off_half(position) and _off_half(position_bias(*first, confidence=strict)),
            )
        )
    kept = [each for each in found if each.labels or each.skips]
    return sorted(kept, key=lambda each: (-each.labels, each.name))


def _off_half(share: Interval) -> bool:
    return share.low > 0.5 or share.high < 0.5


class _Same(NamedTuple):
    """Per judgement that others made too: by whom, of what, the others' share that says the same, the usual share."""

    rater: NDArray[np.int64]
    item: NDArray[np.int64]
    share: NDArray[np.float64]
    usual: NDArray[np.float64]


def _same(judgements: Judgements) -> _Same:
    pairs, ratings = judgements.pairs, judgements.ratings
    parts = []
    for kind in np.unique(pairs.kind):
        chosen = pairs.kind == kind
        share = agreement_with_others(np.rint(2 * pairs.value[chosen]), pairs.unit[chosen])
        parts.append((pairs.rater[chosen], pairs.item[chosen], share))
    for tolerance in np.unique(ratings.tolerance):
        chosen = ratings.tolerance == tolerance
        share = agreement_with_others(ratings.step[chosen], ratings.item[chosen], tolerance=int(tolerance))
        parts.append((ratings.rater[chosen], ratings.item[chosen], share))
    kept = [(who[known], what[known], share[known]) for who, what, share in parts for known in [np.isfinite(share)]]
    if not kept:
        return _Same(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))
    usual = [np.full(len(share), share.mean() if len(share) else math.nan) for _, _, share in kept]
    who, what, share = (np.concatenate(column) for column in zip(*kept, strict=True))
    return _Same(who, what, share, np.concatenate(usual))


def _grouped(keys: NDArray[np.int64], chosen: NDArray[np.bool_], count: int) -> list[NDArray[np.int64]]:
    """Places of the chosen rows by key 0…count − 1."""
    places = np.flatnonzero(chosen)
    order = places[np.argsort(keys[places], kind="stable")]
    return np.split(order, np.searchsorted(keys[order], np.arange(1, count)))
