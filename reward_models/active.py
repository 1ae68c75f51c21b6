"""What to ask people next: items that the members of an ensemble of reward models disagree about.

An item that all members judge alike teaches them little; one that they judge differently tells which of them is right.
`EnsembleDisagreement` is a selector for `FeedbackStore.reprioritise`. What it leaves out: items are valued one by one,
so a batch of near-copies of one hard question is possible; a share of the items is therefore left in random order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_models.base import RewardModel
from reward_models.ensembles import Ensemble
from textenv.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from textenv.feedback.store import Item

Measure = Literal["information", "std"]
"""How disagreement about the order of two responses is measured."""


def pair_disagreement(differences: ArrayLike, measure: Measure = "information") -> NDArray[np.float64]:
    """How much the members disagree about which of two responses is better.

    Args:
        differences: Score of the one minus score of the other, by each member, shape ``(M, n)``.
        measure: ``"information"``: the mutual information, in nats, of a person's choice (Bradley-Terry) and the member
            that is right, i.e. the entropy of the mean probability minus the mean entropy: high where members are
            sure of opposite things, low where all say that it is a toss-up. ``"std"``: the standard deviation of the
            differences, which also rises where all agree on the order but not on the distance.

    Returns:
        Disagreement, shape ``(n,)``, at least 0.

    Raises:
        ShapeError: If the array has not two axes or no member.
        ConfigError: If the measure is unknown.

    Source: Houlsby et al. 2011, arXiv:1112.5745, eq. 2 (information); Christiano et al. 2017, arXiv:1706.03741,
    section 2.2.4 (variance among the members of an ensemble).
    """
    found = np.asarray(differences, dtype=np.float64)
    if found.ndim != 2 or not len(found):
        raise ShapeError(f"`differences` must have shape (M, n) with M ≥ 1, got {found.shape}.")
    if measure == "std":
        return found.std(axis=0)
    if measure != "information":
        raise ConfigError(f"`measure` must be one of {', '.join(get_args(Measure))}; got {measure!r}.")
    chosen = 1 / (1 + np.exp(-np.clip(found, -50, 50)))
    return np.maximum(0.0, _entropy(chosen.mean(axis=0)) - _entropy(chosen).mean(axis=0))


def ranking_disagreement(scores: ArrayLike, measure: Measure = "information") -> float:
    """How much the members disagree about the order of K responses: the mean over all pairs of them.

    Args:
        scores: Of each member for each response, shape ``(M, K)`` with K ≥ 2.
        measure: As in `pair_disagreement`.

    Raises:
        ShapeError: If there are no two responses or no member.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] < 2:
        raise ShapeError(f"`scores` must have shape (M, K) with K ≥ 2, got {found.shape}.")
    first, second = np.triu_indices(found.shape[1], k=1)
    return float(pair_disagreement(found[:, first] - found[:, second], measure).mean())


class EnsembleDisagreement:
    """Values items by the disagreement of an ensemble; a selector for `FeedbackStore.reprioritise`.

    Comparisons and rankings are valued by `ranking_disagreement`, ratings by the standard deviation of the members'
    scores (with noise of the same size on every rating that is in the order of the information, too). Each member's
    scores are brought to mean 0 and standard deviation 1 over the responses at hand, so members on different scales
    count alike. What is returned is the item's place within its kind, from 0 to 1, spread evenly: kinds stay mixed as
    before, and items that come later, with their random number from 0 to 1, fall in between.

    Items to demonstrate, a share of the others (`explore`), and what exceeds `most` get a number that belongs to the
    item alone. That share is also where labels for honest measurements should be taken from: those that were selected
    are harder than the rest.

    Args:
        models: At least two members, or an ensemble of them.
        measure: How disagreement about an order is measured.
        explore: Share of the items that keep a random place.
        most: Items that are scored in one go at most; the others wait for the next one.
        batch: Responses that a member scores in one call.

    Raises:
        ConfigError: If there are fewer than two members, or a number is out of its range.
    """

    def __init__(
        self,
        models: Sequence[RewardModel] | Ensemble,
        *,
        measure: Measure = "information",
        explore: float = 0.1,
        most: int = 2000,
        batch: int = 256,
    ) -> None:
        self.ensemble = models if isinstance(models, Ensemble) else Ensemble(models)
        if len(self.ensemble.models) < 2:
            raise ConfigError(f"disagreement needs at least two reward models, got {len(self.ensemble.models)}.")
        if measure not in get_args(Measure):
            raise ConfigError(f"`measure` must be one of {', '.join(get_args(Measure))}; got {measure!r}.")
        if not 0 <= explore <= 1 or most < 1 or batch < 1:
            raise ConfigError(
                f"need `explore` from 0 to 1, `most` ≥ 1 and `batch` ≥ 1, got {explore}, {most} and {batch}."
            )
        self.measure: Measure = measure
        self.explore, self.most, self.batch = explore, most, batch

    def __call__(self, items: Sequence[Item]) -> list[float]:
        """How early each item is to be asked, from 0 to 1.

        Raises:
            RewardError: If a member's scores are not finite.
        """
        values = [_fraction("place", item.id) for item in items]
        judged = [
            place for place, item in enumerate(items) if item.answers and _fraction("explore", item.id) >= self.explore
        ]
        # Which ones are left out changes with what is there, so every item has its turn.
        judged = sorted(judged, key=lambda place: _fraction(str(len(items)), items[place].id))[: self.most]
        found = self.disagreement([items[place] for place in judged])
        for kind in {items[place].kind for place in judged}:
            members = [n for n, place in enumerate(judged) if items[place].kind == kind]
            order = sorted(members, key=lambda n: (found[n], values[judged[n]]))
            for rank, n in enumerate(order):
                values[judged[n]] = (rank + 0.5) / len(order)
        return values

    def disagreement(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """The ensemble's disagreement about each item, in the unit of its kind; all items must have answers.

        Raises:
            RewardError: If a member's scores are not finite.
        """
        texts = dict.fromkeys((item.conversation, answer.text) for item in items for answer in item.answers)
        column = {text: number for number, text in enumerate(texts)}
        scores = _standardised(self._scores(list(texts)))
        found = np.zeros(len(items))
        for number, item in enumerate(items):
            mine = scores[:, [column[item.conversation, answer.text] for answer in item.answers]]
            found[number] = mine.std() if mine.shape[1] == 1 else ranking_disagreement(mine, self.measure)
        return found

    def _scores(self, texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Each member's scores, shape ``(M, n)``; texts of similar length are scored together."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n][0]) + len(texts[n][1]))
        scores = np.zeros((len(self.ensemble.models), len(texts)))
        for begin in range(0, len(order), self.batch):
            part = order[begin : begin + self.batch]
            prompts, responses = [texts[n][0] for n in part], [texts[n][1] for n in part]
            scores[:, part] = self.ensemble.member_scores(prompts, responses)
        return scores


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row with mean 0 and standard deviation 1; a row without any spread becomes 0."""
    if not scores.shape[1]:
        return scores
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 0, spread, 1.0)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a choice between two, in nats."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def _fraction(purpose: str, item_id: str) -> float:
    """A number from 0 to 1 that belongs to an item."""
    digest = hashlib.sha256(f"{purpose}\x1f{item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
