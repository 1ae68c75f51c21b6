"""What a suite holds: responses, pairs that people ordered, and choices among several; the same for every source.

A suite is only data. Which measures are taken follows from what it has: single ratings give a noise ceiling, gold
values give rank correlations, choices give best-of-K accuracy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from textenv.errors import DataError


@dataclass(frozen=True)
class Pairs:
    """Pairs of items of which one is known, or held, to be better.

    Attributes:
        better: Index of the better item, shape ``(P,)``.
        worse: Index of the other, shape ``(P,)``.
        share: Share of raters who prefer the better one, ties counted half, in [0, 1]; 1 where nobody was asked
            twice. Shape ``(P,)``.
        gap: Difference of the two gold values, NaN where there are none, shape ``(P,)``.
        subset: Index into `subsets`, shape ``(P,)``.
        subsets: Names; one for a suite that is not divided.
    """

    better: NDArray[np.int64]
    worse: NDArray[np.int64]
    share: NDArray[np.float64]
    gap: NDArray[np.float64]
    subset: NDArray[np.int64]
    subsets: tuple[str, ...] = ("all",)

    def __len__(self) -> int:
        return len(self.better)

    @classmethod
    def of(
        cls,
        better: Sequence[int] | NDArray[np.int64],
        worse: Sequence[int] | NDArray[np.int64],
        *,
        share: Sequence[float] | NDArray[np.float64] | None = None,
        gap: Sequence[float] | NDArray[np.float64] | None = None,
        subset: Sequence[str] | None = None,
    ) -> Pairs:
        """Pairs from indices; everything else has a default.

        Args:
            better: As in the class.
            worse: As in the class.
            share: As in the class; 1 for None.
            gap: As in the class; NaN for None.
            subset: Name of each pair's subset; one subset ``all`` for None.
        """
        count = len(better)
        names = sorted(set(subset)) if subset is not None else ["all"]
        places = {name: index for index, name in enumerate(names)}
        return cls(
            np.asarray(better, dtype=np.int64),
            np.asarray(worse, dtype=np.int64),
            np.ones(count) if share is None else np.asarray(share, dtype=np.float64),
            np.full(count, np.nan) if gap is None else np.asarray(gap, dtype=np.float64),
            np.array([places[name] for name in subset or []] or [0] * count, dtype=np.int64),
            tuple(names),
        )


@dataclass(frozen=True)
class Choice:
    """One prompt with several responses, some of them correct (RewardBench 2).

    Attributes:
        items: Indices of the responses, the correct ones first.
        correct: How many of them are correct, at least 1.
        subset: Its subset.
        id: ``ref:<number>`` or ``tied:<number>`` in the subset of ties, otherwise free.
    """

    items: tuple[int, ...]
    correct: int
    subset: str
    id: str


@dataclass(frozen=True)
class SuiteData:
    """A suite: distinct items and what is known of them.

    Attributes:
        name: Short name, also of its group: ``human/movies`` belongs to ``human``.
        title: For people.
        prompts: Prompt of each item.
        responses: Response of each item.
        pairs: Ordered pairs of items.
        clusters: Items that are drawn together (those of one prompt) have one number, from 0 without gaps, ``(n,)``.
        gold: True or best known value of each item, shape ``(n,)``; None where only pairs are known.
        raters: Every single rating of each item; None where there are none.
        choices: Best-of-K tasks.
        weights: Weight of each subset within its section, for prompt-weighted scores: section → {subset: weight}.
        truth_known: Whether `gold` is the truth (simulated) rather than a mean of ratings.
        note: What a reader has to know about it.
    """

    name: str
    title: str
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    pairs: Pairs
    clusters: NDArray[np.int64]
    gold: NDArray[np.float64] | None = None
    raters: tuple[tuple[float, ...], ...] | None = None
    choices: tuple[Choice, ...] = ()
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    truth_known: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        n = len(self.prompts)
        sizes = {"responses": len(self.responses), "clusters": len(self.clusters)}
        sizes |= {} if self.gold is None else {"gold": len(self.gold)}
        sizes |= {} if self.raters is None else {"raters": len(self.raters)}
        wrong = [f"{size} {name}" for name, size in sizes.items() if size != n]
        if wrong or n == 0:
            raise DataError(
                f"suite {self.name!r} has {n} prompts and {', '.join(wrong) or 'nothing else'}; give each "
                "item one of each, and at least one item."
            )
        if len(self.pairs) and max(self.pairs.better.max(), self.pairs.worse.max()) >= n:
            raise DataError(f"suite {self.name!r}: a pair names an item beyond the {n} that there are.")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def within_prompts(self) -> bool:
        """Whether every pair compares responses to the same prompt."""
        return bool((self.clusters[self.pairs.better] == self.clusters[self.pairs.worse]).all())

    def sha256(self) -> str:
        """Hash of all texts, pairs and choices: two runs with the same hash judged the same data."""
        digest = hashlib.sha256()
        for prompt, response in zip(self.prompts, self.responses, strict=True):
            digest.update(f"{len(prompt)}:{prompt}{len(response)}:{response}".encode("utf-8", "surrogatepass"))
        for array in (self.pairs.better, self.pairs.worse, np.round(self.pairs.share, 9)):
            digest.update(np.ascontiguousarray(array).astype("<f8").tobytes())
        digest.update(repr([(choice.items, choice.correct, choice.subset) for choice in self.choices]).encode())
        return digest.hexdigest()


def cluster_by_prompt(prompts: Sequence[str]) -> NDArray[np.int64]:
    """A number per distinct prompt, in order of first appearance, shape ``(n,)``."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(prompt, len(seen)) for prompt in prompts], dtype=np.int64)


class ItemTable:
    """Collects distinct (prompt, response) items while a file is read."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], int] = {}

    def add(self, prompt: str, response: str) -> int:
        """Index of the item, which is added where it is new."""
        return self._places.setdefault((prompt, response), len(self._places))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts in order of the indices."""
        return tuple(prompt for prompt, _ in self._places)

    @property
    def responses(self) -> tuple[str, ...]:
        """Responses in order of the indices."""
        return tuple(response for _, response in self._places)
