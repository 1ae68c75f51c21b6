"""What several raters of the same items agree on, and how noisy and biased each of them is.

Ratings are taken apart by a mixed model (item + rater's bias + noise of the rater's own size), comparisons by
Dawid & Skene's model of confusions, which crowd-kit fits. The mixed model is our own: crowd-kit aggregates no numbers,
and statsmodels' MixedLM has one noise variance for everybody, where a rater's own is what is asked for. Krippendorff's
alpha is our own too (:mod:`textenv.feedback.measures.agreement`): the package of that name is GPL, and crowd-kit's goes
through all pairs in Python.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from reward_models.labels.kinds import Comparison, Rating
from textenv.errors import DataError, MissingDependencyError
from textenv.feedback.measures.agreement import alpha_estimate, choice_values, krippendorff_alpha

_TIE = "tie"


class Agreement(NamedTuple):
    """How far raters agree.

    Attributes:
        alpha: Krippendorff's, 1 for perfect agreement and 0 for chance; of intervals for ratings, nominal for
            comparisons, each counted from both sides, as the store's figures are; NaN if all labels say the same.
        pairwise: Probability that two raters of one item say the same.
        items: Items with at least two labels; only these count.
        labels: Labels of those items.
    """

    alpha: float
    pairwise: float
    items: int
    labels: int


def agreement(labels: Sequence[Rating] | Sequence[Comparison]) -> Agreement:
    """Agreement of the raters of the same items.

    Labels are about the same item if they share `item`, or else prompt and responses.

    Raises:
        DataError: If no item has two labels, or ratings and comparisons are mixed.
    """
    groups = _groups(labels)
    values = [[_answer(label) for label in group] for group in groups.values() if len(group) > 1]
    if not values:
        raise DataError("agreement needs items with at least two labels; give them the same `item`.")
    same = [np.mean([a == b for i, a in enumerate(group) for b in group[i + 1 :]]) for group in values]
    if isinstance(labels[0], Rating):
        alpha = krippendorff_alpha(_as_numbers(values))
    else:  # which of two answers is called the low one must not matter
        units = np.repeat(np.arange(len(values)), [len(group) for group in values])
        choices = choice_values(np.concatenate(_as_numbers(values)), units)
        alpha = alpha_estimate(choices.values, choices.units, level="nominal").value
    return Agreement(alpha, float(np.mean(same)), len(values), sum(map(len, values)))


class RaterEstimate(NamedTuple):
    """What is known of one rater.

    Attributes:
        bias: How much higher than the average rater.
        noise: Standard deviation of the rater's ratings around item and bias.
        labels: How many ratings it rests on.
    """

    bias: float
    noise: float
    labels: int


@dataclass(frozen=True)
class RaterEffects:
    """Ratings taken apart.

    Attributes:
        items: One rating per item: the estimated worth without the raters' biases, noisy raters counting less;
            `spread` is the noise of a single rating of it, `count` the ratings behind it.
        raters: Bias and noise by name.
        item_std: Standard deviation of the items' worth.
    """

    items: list[Rating]
    raters: dict[str, RaterEstimate]
    item_std: float


def rater_effects(ratings: Sequence[Rating], *, iterations: int = 200) -> RaterEffects:
    """Bias and noise of each rater, and what the items are worth without them, by maximum likelihood.

    ``rating = worth of the item + bias of the rater + noise``, worth from N(m, t²), noise from N(0, s²) with an s of
    the rater's own; fitted by expectation maximisation.

    Args:
        ratings: With `rater`; most items rated by several people, on one scale.
        iterations: Steps of the algorithm.

    Raises:
        DataError: If there are no ratings, or one has no rater.

    Source: Laird & Ware 1982, Biometrics 38, section 4 (with a variance per rater).
    """
    if not ratings or any(rating.rater is None for rating in ratings):
        raise DataError(f"rater effects need ratings with a `rater`, got {len(ratings)} ratings, some perhaps without.")
    groups = _groups(ratings)
    names = sorted({str(rating.rater) for rating in ratings})
    place = {key: number for number, key in enumerate(groups)}
    item = np.array([place[_key(rating)] for rating in ratings])
    rater = np.array([names.index(str(rating.rater)) for rating in ratings])
    given = np.array([rating.score for rating in ratings], dtype=np.float64)
    per_rater, per_item = np.bincount(rater), np.bincount(item)
    worth = np.bincount(item, given) / per_item
    bias = np.zeros(len(names))
    mean, item_variance = float(worth.mean()), float(worth.var()) + 1e-6
    variance = np.full(len(names), float(np.var(given - worth[item])) + 1e-3)
    uncertainty = np.zeros(len(worth))
    for _ in range(iterations):
        precision = 1 / variance[rater]
        uncertainty = 1 / (1 / item_variance + np.bincount(item, precision))
        worth = uncertainty * (mean / item_variance + np.bincount(item, precision * (given - bias[rater])))
        bias = np.bincount(rater, given - worth[item]) / per_rater
        # Only differences of biases mean something: their mean belongs to the items.
        mean = float(worth.mean()) + float(bias.mean())
        worth, bias = worth + bias.mean(), bias - bias.mean()
        residual = (given - worth[item] - bias[rater]) ** 2 + uncertainty[item]
        variance = np.maximum(np.bincount(rater, residual) / per_rater, 1e-6)
        item_variance = max(float(np.mean((worth - mean) ** 2 + uncertainty)), 1e-6)
    items = [
        replace(
            group[0],
            score=float(worth[number]),
            scale=None,
            spread=float(np.sqrt(np.mean([variance[names.index(str(x.rater))] for x in group]))),
            count=len(group),
            rater=None,
        )
        for number, group in enumerate(groups.values())
    ]
    raters = {
        name: RaterEstimate(float(bias[i]), float(np.sqrt(variance[i])), int(per_rater[i]))
        for i, name in enumerate(names)
    }
    return RaterEffects(items, raters, math.sqrt(item_variance))


@dataclass(frozen=True)
class Consensus:
    """Comparisons of several raters, brought together.

    Attributes:
        comparisons: One per item: the likelier answer, its probability (of a decision, ties apart) as `confidence`.
        accuracy: By rater, the estimated probability of saying what is true.
    """

    comparisons: list[Comparison]
    accuracy: dict[str, float]


def dawid_skene(comparisons: Sequence[Comparison], *, iterations: int = 100) -> Consensus:
    """The likeliest answer to each comparison, raters weighed by how often they seem to be right.

    Args:
        comparisons: With `rater`; most items judged by several people.
        iterations: At most so many steps of the algorithm.

    Raises:
        DataError: If there are no comparisons, or one has no rater.
        MissingDependencyError: If crowd-kit is not installed.

    Source: Dawid & Skene 1979, JRSS C 28, 20-28, as crowd-kit implements it.
    """
    try:
        import pandas as pd
        from crowdkit.aggregation.classification import DawidSkene
    except ImportError as error:
        raise MissingDependencyError('Dawid-Skene needs crowd-kit: pip install "textenv[raters]"') from error
    if not comparisons or any(label.rater is None for label in comparisons):
        raise DataError(f"Dawid-Skene needs comparisons with a `rater`, got {len(comparisons)}, some perhaps without.")
    groups = _groups(comparisons)
    place = {key: number for number, key in enumerate(groups)}
    answers = [(place[_key(label)], str(label.rater), _answer(label)) for label in comparisons]
    frame = pd.DataFrame(answers, columns=["task", "worker", "label"])
    with warnings.catch_warnings():
        # crowd-kit 1.4 calls pandas in a way that pandas 3.1 deprecates; nothing that our callers could mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        fitted = DawidSkene(n_iter=iterations).fit(frame)
    probabilities = cast(Any, fitted.probas_).reindex(range(len(groups)))
    made = [
        _decided(group[0], {str(name): float(p) for name, p in zip(probabilities.columns, row, strict=True)})
        for group, row in zip(groups.values(), probabilities.to_numpy(), strict=True)
    ]
    return Consensus(made, _accuracies(fitted))


def _accuracies(fitted: object) -> dict[str, float]:
    """By rater: the probability of the true answer, averaged over the answers' own shares."""
    errors, priors = fitted.errors_, fitted.priors_  # type: ignore[attr-defined]
    found: dict[str, float] = {}
    for worker, table in errors.groupby(level=0):
        found[str(worker)] = float(
            sum(
                priors[name] * table.loc[(worker, name), name] for name in priors.index if (worker, name) in table.index
            )
        )
    return found


def _decided(first: Comparison, probability: dict[str, float]) -> Comparison:
    """One comparison for all raters' labels of an item."""
    low, high = sorted((first.chosen, first.rejected))
    for_low, for_high, tie = (probability.get(name, 0.0) for name in ("low", "high", _TIE))
    chosen, rejected = (low, high) if for_low >= for_high else (high, low)
    decided = max(for_low + for_high, 1e-12)
    return replace(
        first,
        chosen=chosen,
        rejected=rejected,
        tie=tie > max(for_low, for_high),
        confidence=max(for_low, for_high) / decided,
        rater=None,
    )


def _key(label: Rating | Comparison) -> Hashable:
    if isinstance(label, Rating):
        return (label.item, label.prompt, label.response)
    # Two items may share a name, such as the prompt's; the texts tell them apart and do not depend on who won.
    return (label.item, label.prompt, *sorted((label.chosen, label.rejected)))


def _answer(label: Rating | Comparison) -> float | str:
    """What a label says, in words that do not depend on which response stands first."""
    if isinstance(label, Rating):
        return float(label.score)
    if label.tie:
        return _TIE
    return "low" if label.chosen < label.rejected else "high"


def _groups(labels: Sequence[Rating] | Sequence[Comparison]) -> dict[Hashable, list]:
    if len({type(label) for label in labels}) > 1:
        raise DataError("ratings and comparisons have no agreement with each other; give one kind.")
    groups: dict[Hashable, list] = {}
    for label in labels:
        groups.setdefault(_key(label), []).append(label)
    return groups


def _as_numbers(values: list[list[float | str]]) -> list[list[float]]:
    names = {"low": 0.0, "high": 1.0, _TIE: 0.5}
    return [[names[value] if isinstance(value, str) else value for value in group] for group in values]
