"""Best-of-K accuracy as RewardBench 2 counts it, with its score for questions that have several right answers.

Source: Malik et al. 2025, arXiv:2506.01937, section 3; scoring rule of the `rewardbench` package.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import Choice, SuiteData
from textenv.statistics import ClusterBootstrap, Interval, Resampled

TIES = "ties"


class ChoiceResult(NamedTuple):
    """Best-of-K figures of one model.

    Attributes:
        subsets: Subset → accuracy, or the ties score (0 to 1.01) for the subset of ties.
        mean: Plain mean of the subsets.
        chance: What a constant model gets on each subset.
    """

    subsets: dict[str, Interval]
    mean: Interval
    chance: dict[str, float]


def choice_accuracy(scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap) -> ChoiceResult | None:
    """Best-of-K accuracy per subset; None for a suite without choices.

    The right answer has to reach the largest score; k responses that share it get 1/k. A missing score counts as the
    lowest.

    Args:
        scores: One per item, NaN where missing, shape ``(n,)``.
        suite: Its choices.
        bootstrap: Over the suite's clusters.
    """
    if not suite.choices:
        return None
    filled = np.where(np.isfinite(scores), scores, -np.inf)
    subsets, chance = dict[str, Resampled](), dict[str, float]()
    for name in sorted({choice.subset for choice in suite.choices}):
        own = [choice for choice in suite.choices if choice.subset == name]
        if name.lower() == TIES:
            subsets[name], chance[name] = _ties(filled, own, bootstrap)
        else:
            credit = np.array([_credit(filled[list(choice.items)]) for choice in own])
            first = np.array([choice.items[0] for choice in own])
            subsets[name] = bootstrap.pair_mean(first, first, credit)
            chance[name] = float(np.mean([1 / len(choice.items) for choice in own]))
    most = {name: 1.01 if name.lower() == TIES else 1 for name in subsets}
    intervals = {name: found.interval((0, most[name])) for name, found in subsets.items()}
    return ChoiceResult(intervals, Resampled.mean(list(subsets.values())).interval(), chance)


def _credit(scores: NDArray[np.float64]) -> float:
    """1/k where the first response is among the k best, else 0."""
    best = scores == scores.max()
    return float(best[0] / best.sum())


class _Margins(NamedTuple):
    accurate: float
    among_correct: float
    over_wrong: float


def _margins(scores: NDArray[np.float64], correct: int) -> _Margins:
    right, wrong = scores[:correct], scores[correct:]
    with np.errstate(invalid="ignore"):
        over = float(np.nan_to_num(right.min() - wrong.max(), nan=0.0))
        return _Margins(float(over > 0), float(np.nan_to_num(right.max() - right.min(), nan=0.0)), over)


_TIES_WEIGHTS = np.array([0.30, 0.30, 0.20, 0.20, 0.01])


def ties_terms(groups: list[tuple[str, NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """The five terms of the ties score for each question, NaN where a question has none, shape ``(Q, 5)``.

    A question stands twice in the subset: as ``tied`` with several right answers and as ``ref`` with one. The terms:
    the tied form is right; the ref form is right; the worst right answer lies further above the best wrong one than
    the right ones lie apart; the same in both forms; and by how much.

    Args:
        groups: Id (``ref:<number>`` or ``tied:<number>``), scores with those of the right answers first, and how many
            are right.
    """
    kinds: dict[str, dict[str, _Margins]] = {"ref": {}, "tied": {}}
    for group, scores, correct in groups:
        kind, _, number = group.partition(":")
        kinds["ref" if kind == "ref" else "tied"][number] = _margins(scores, correct)
    numbers = list(dict.fromkeys([*kinds["ref"], *kinds["tied"]]))
    table = np.full((len(numbers), 5), np.nan)
    for row, number in zip(table, numbers, strict=True):
        ref, tied = kinds["ref"].get(number), kinds["tied"].get(number)
        if tied is not None:
            row[0] = tied.accurate
        if ref is not None:
            row[1] = ref.accurate
        if tied is not None and ref is not None:
            hard = min(ref.over_wrong, tied.over_wrong)
            row[2], row[3] = tied.over_wrong > tied.among_correct, hard > tied.among_correct
            with np.errstate(invalid="ignore", divide="ignore"):
                row[4] = np.nan_to_num(np.tanh(np.float64(hard) / tied.among_correct - 1), nan=0.0)
    return table


def ties_score(groups: list[tuple[str, NDArray[np.float64], int]]) -> float:
    """The ties score of RewardBench 2: 60 % accuracy, 40 % margins, and up to 1 % for their size; from 0 to 1.01.

    Args:
        groups: As in `ties_terms`.
    """
    table = ties_terms(groups)
    known = np.isfinite(table)
    return float(_TIES_WEIGHTS @ (np.where(known, table, 0).sum(0) / np.maximum(known.sum(0), 1)))


def _ties(scores: NDArray[np.float64], choices: list[Choice], bootstrap: ClusterBootstrap) -> tuple[Resampled, float]:
    """The ties score over questions, whose two forms are drawn together, and the score of a constant model."""
    groups = [(c.id, scores[list(c.items)], c.correct) for c in choices]
    terms = ties_terms(groups)
    questions = ClusterBootstrap(
        np.arange(len(terms)), np.random.default_rng(len(terms)), resamples=len(bootstrap.weights)
    )
    draws = np.nan_to_num(questions.means(terms)[1]) @ _TIES_WEIGHTS
    constant = ties_score([(c.id, np.zeros(len(c.items)), c.correct) for c in choices])
    return Resampled(ties_score(groups), draws, len(choices), len(terms)), constant
