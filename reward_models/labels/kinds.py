"""The kinds of labels that people give: ratings, comparisons, rankings, the best of several, steps.

All are plain records of texts, so a file, a web page or a generator can produce them. Each checks itself: an unusable
field is a `DataError` that names it, says what was expected and what came. Every record may say who gave it (`rater`),
what it is about (`item`: labels of several raters on the same thing share it) and where it comes from (`source`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from textenv.errors import DataError


@dataclass(frozen=True, slots=True)
class Rating:
    """A response and how good people found it.

    Attributes:
        prompt: What was asked.
        response: What was answered.
        score: The rating, e.g. one person's or the mean over raters; on one scale for all labels of a training run.
        weight: How much this label counts, at least 0.
        scale: Lowest and highest category where the rating is a whole number (Likert), e.g. ``(1, 5)``; None for a
            number on a continuous scale.
        spread: Standard deviation of the single ratings behind a mean; None where unknown.
        count: How many single ratings `score` is the mean of.
        rater: Who said so.
        item: What the label is about; the ratings of one response by several people share it.
        source: Where the label comes from.

    Raises:
        DataError: If the score is not finite or outside the scale, or another field is unusable.
    """

    prompt: str
    response: str
    score: float
    weight: float = 1.0
    scale: tuple[int, int] | None = None
    spread: float | None = None
    count: int = 1
    rater: str | None = None
    item: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        where = f"for the response {self.response[:60]!r}"
        _need(math.isfinite(self.score), "score", "finite", self.score, where)
        _need_weight(self.weight, where)
        _need(self.count >= 1, "count", "at least 1", self.count, where)
        spread = self.spread
        _need(spread is None or 0 <= spread < math.inf, "spread", "finite and ≥ 0, or None", spread, where)
        if self.scale is not None:
            low, high = self.scale
            _need(low < high, "scale", "a lower and a higher whole number", self.scale, where)
            if self.count == 1:
                inside = low <= self.score <= high and float(self.score).is_integer()
                _need(inside, "score", f"a whole number from {low} to {high} (its `scale`)", self.score, where)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, of which people preferred one, or neither.

    Attributes:
        prompt: What was asked.
        chosen: The preferred response; of a tie either one.
        rejected: The other one.
        margin: How much larger its score should at least be; 0 asks for larger only.
        weight: How much this label counts, at least 0.
        tie: Neither was preferred.
        confidence: Believed probability that `chosen` is the better one, e.g. the share of raters who said so.
        rater: Who said so.
        item: What the label is about; comparisons of the same two responses by several people share it.
        source: Where the label comes from.

    Raises:
        DataError: If margin, weight or confidence is unusable, or both responses are the same text.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0
    weight: float = 1.0
    tie: bool = False
    confidence: float = 1.0
    rater: str | None = None
    item: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        where = f"for the prompt {self.prompt[:60]!r}"
        _need(math.isfinite(self.margin), "margin", "finite", self.margin, where)
        _need_weight(self.weight, where)
        _need(0 <= self.confidence <= 1, "confidence", "from 0 to 1", self.confidence, where)
        different = self.chosen != self.rejected
        _need(different, "rejected", "another text than `chosen`", self.rejected[:60], where)


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to one prompt in the order that people gave them.

    Attributes:
        prompt: What was asked.
        responses: The K responses in any order, K at least 2.
        ranks: Rank of each response: 1 is best, equal numbers are ties, gaps mean nothing (1, 2, 2, 4 and 1, 2, 2, 3
            say the same). None marks a response that was left unranked: below every ranked one, its order among
            the other unranked ones unknown (a top-k ranking).
        weight: How much this label counts, at least 0.
        rater: Who said so.
        item: What the label is about.
        source: Where the label comes from.

    Raises:
        DataError: If there are fewer than two responses, other than K ranks, a rank below 1, or no rank at all.
    """

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int | None, ...]
    weight: float = 1.0
    rater: str | None = None
    item: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        where = f"for the prompt {self.prompt[:60]!r}"
        _need_responses(self.responses, where)
        matches = len(self.ranks) == len(self.responses)
        _need(matches, "ranks", f"one rank per response, {len(self.responses)}", len(self.ranks), where)
        given = [rank for rank in self.ranks if rank is not None]
        _need(bool(given), "ranks", "at least one number", self.ranks, where)
        _need(min(given) >= 1, "ranks", "whole numbers from 1 (best)", self.ranks, where)
        _need_weight(self.weight, where)

    def groups(self) -> list[tuple[int, ...]]:
        """Indices of the responses, best group first; the members of a group are tied.

        Unranked responses are in none of the groups.
        """
        by_rank: dict[int, list[int]] = {}
        for index, rank in enumerate(self.ranks):
            if rank is not None:
                by_rank.setdefault(rank, []).append(index)
        return [tuple(by_rank[rank]) for rank in sorted(by_rank)]

    @property
    def dense_ranks(self) -> tuple[int | None, ...]:
        """The ranks without gaps: 1, 2, 2, 3."""
        place = {index: rank for rank, group in enumerate(self.groups(), start=1) for index in group}
        return tuple(place.get(index) for index in range(len(self.responses)))


@dataclass(frozen=True, slots=True)
class BestOf:
    """K responses to one prompt, of which people picked the best.

    Attributes:
        prompt: What was asked.
        responses: The K responses, K at least 2.
        best: Index of the best one.
        weight: How much this label counts, at least 0.
        rater: Who said so.
        item: What the label is about.
        source: Where the label comes from.

    Raises:
        DataError: If there are fewer than two responses or `best` is not one of their indices.
    """

    prompt: str
    responses: tuple[str, ...]
    best: int
    weight: float = 1.0
    rater: str | None = None
    item: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        where = f"for the prompt {self.prompt[:60]!r}"
        _need_responses(self.responses, where)
        inside = 0 <= self.best < len(self.responses)
        _need(inside, "best", f"an index from 0 to {len(self.responses) - 1}", self.best, where)
        _need_weight(self.weight, where)


@dataclass(frozen=True, slots=True)
class StepLabels:
    """A response in steps, and which of the steps are right: what process reward models learn from.

    Attributes:
        prompt: What was asked.
        steps: The pieces of the response in their order; joined without anything between they are the response.
        labels: For each step the probability that it is right (0 and 1 for wrong and right), None where unknown.
        weight: How much this label counts, at least 0.
        rater: Who said so.
        item: What the label is about.
        source: Where the label comes from.

    Raises:
        DataError: If there is no step, other than one label per step, a label outside [0, 1], or none known.
    """

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    weight: float = 1.0
    rater: str | None = None
    item: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        where = f"for the prompt {self.prompt[:60]!r}"
        _need(len(self.steps) >= 1, "steps", "at least one step", len(self.steps), where)
        matches = len(self.labels) == len(self.steps)
        _need(matches, "labels", f"one label per step, {len(self.steps)}", len(self.labels), where)
        known = [label for label in self.labels if label is not None]
        _need(bool(known), "labels", "at least one number", self.labels, where)
        _need(all(0 <= label <= 1 for label in known), "labels", "numbers from 0 to 1", self.labels, where)
        _need_weight(self.weight, where)


Label = Rating | Comparison | Ranking | BestOf | StepLabels


def _need(condition: bool, field: str, expected: str, got: Any, where: str) -> None:
    if not condition:
        raise DataError(f"`{field}` must be {expected}, got {got!r} {where}.")


def _need_weight(weight: float, where: str) -> None:
    _need(0 <= weight < math.inf, "weight", "finite and ≥ 0", weight, where)


def _need_responses(responses: tuple[str, ...], where: str) -> None:
    _need(len(responses) >= 2, "responses", "at least two", len(responses), where)
