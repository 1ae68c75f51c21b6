"""The labels of a store as columns of numbers, kept up to date: what all figures are computed from.

Reading is incremental: only labels that are new are fetched and taken apart, and which ones were taken back is asked
only where the raters' counters say that some were. No text is kept, so that a label takes some 40 bytes, and each pair
of answers that it orders some 60.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from array import array
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from textenv.feedback.store import KINDS, Database
from textenv.feedback.store.contents import Scale
from textenv.feedback.store.rows import answer_records
from textenv.feedback.store.schema import items, labels, raters

_CHUNK = 500
_PAUSE_SECONDS = 0.002  # between chunks: requests that wait for the interpreter get their turn
_MOST_ANSWERS = 26

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Labels(NamedTuple):
    """Labels and skips that stand, by number.

    Attributes:
        rater: Index into :attr:`Judgements.raters`.
        item: Stands for its id.
        kind: Index into ``KINDS``.
        seconds: Spent on it.
        time: When it was saved, Unix seconds UTC.
        skipped: Whether it is a skip.
        gold: Whether the item is a gold question.
        credit: How right the answer to a gold question is, 0…1; NaN for all else.
    """

    rater: Ints
    item: Ints
    kind: Ints
    seconds: Floats
    time: Floats
    skipped: NDArray[np.bool_]
    gold: NDArray[np.bool_]
    credit: Floats


class Pairs(NamedTuple):
    """Pairs of answers in the order that somebody gave them; gold questions apart.

    Attributes:
        label: Index into the labels.
        rater: Index into :attr:`Judgements.raters`.
        kind: Index into ``KINDS``.
        unit: Stands for the pair: the same for everybody who judged it.
        item: Stands for the item.
        prompt: Stands for the prompt.
        value: 1 where the first answer (by number) is preferred, 0 the second, ½ neither.
        both_bad: Whether somebody said that both are bad, whichever is preferred.
        first_shown: 1 where the first answer was shown before the second, 0 after it, NaN where nobody knows.
        first_length: Characters of the first answer.
        second_length: Characters of the second.
        first_source: Index into :attr:`Judgements.sources`.
        second_source: Likewise.
    """

    label: Ints
    rater: Ints
    kind: Ints
    unit: Ints
    item: Ints
    prompt: Ints
    value: Floats
    both_bad: NDArray[np.bool_]
    first_shown: Floats
    first_length: Ints
    second_length: Ints
    first_source: Ints
    second_source: Ints


class Ratings(NamedTuple):
    """Ratings; gold questions apart.

    Attributes:
        rater: Index into :attr:`Judgements.raters`.
        item: Stands for the item.
        prompt: Stands for the prompt.
        source: Index into :attr:`Judgements.sources`.
        step: The category, counted from the scale's lowest.
        worth: The rating from 0 (lowest) to 1.
        length: Characters of the answer.
        tolerance: Steps by which two ratings may differ and still say the same: 1 on scales of five and more, else 0.
    """

    rater: Ints
    item: Ints
    prompt: Ints
    source: Ints
    step: Ints
    worth: Floats
    length: Ints
    tolerance: Ints


class Judgements(NamedTuple):
    """All that stands.

    Attributes:
        labels: Labels and skips.
        pairs: What comparisons and rankings say of pairs.
        ratings: Ratings.
        raters: Names.
        sources: Policies, ``name@version``.
    """

    labels: Labels
    pairs: Pairs
    ratings: Ratings
    raters: tuple[str, ...]
    sources: tuple[str, ...]


class JudgementLog:
    """Judgements in memory; not for several threads at once.

    Args:
        database: Of the store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._raters: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._number, self._standing = array("q"), bytearray()
        self._labels = _columns(rater="q", item="q", kind="q", seconds="d", time="d", skipped="b", gold="b", credit="d")
        self._pairs = _columns(
            label="q", unit="q", prompt="q", value="d", both_bad="b", first_shown="b",
            first_length="q", second_length="q", first_source="q", second_source="q",
        )  # fmt: skip
        self._ratings = _columns(
            label="q", prompt="q", source="q", step="q", worth="d", length="q", tolerance="q"
        )  # fmt: skip

    def __len__(self) -> int:
        """Labels read so far, those taken back among them."""
        return len(self._number)

    def update(self) -> bool:
        """Read what is new; whether anything is."""
        before = (len(self._number), self._standing.count(1))
        while True:
            with self._database.read() as connection:
                found = connection.execute(_NEW, {"after": self._number[-1] if self._number else 0}).all()
                about = connection.execute(_ABOUT, {"ids": list({row.item for row in found})}) if found else ()
                known = {row.id: _Facts(row) for row in about}
                for row in found:
                    self._take(row, known[row.item])
                if len(found) < _CHUNK:
                    if connection.execute(_COUNTED).scalar_one() != self._standing.count(1):
                        self._take_back([row.number for row in connection.execute(_UNDONE)])
                    return before != (len(self._number), self._standing.count(1))
            time.sleep(_PAUSE_SECONDS)

    def judgements(self) -> Judgements:
        """A copy of everything that stands."""
        stands = np.frombuffer(self._standing, np.bool_).copy()
        columns = {name: np.array(column)[stands] for name, column in self._labels.items()}
        fields: dict[str, Any] = columns | {name: columns[name].astype(np.bool_) for name in ("skipped", "gold")}
        said = Labels(**fields)
        place = np.cumsum(stands) - 1  # of a label among those that stand
        pairs, ratings = _kept(self._pairs, stands, place), _kept(self._ratings, stands, place)
        where, rated = pairs["label"], ratings.pop("label")
        _, index = np.unique(said.item[where], return_inverse=True)
        pairs["unit"] += index * _MOST_ANSWERS**2
        shown = pairs["first_shown"]
        pairs |= {
            "both_bad": pairs["both_bad"].astype(np.bool_),
            "first_shown": np.where(shown < 0, np.nan, shown.astype(np.float64)),
        }
        of_pairs = Pairs(rater=said.rater[where], kind=said.kind[where], item=said.item[where], **pairs)
        of_ratings = Ratings(rater=said.rater[rated], item=said.item[rated], **ratings)
        return Judgements(said, of_pairs, of_ratings, tuple(self._raters), tuple(self._sources))

    def _take(self, row: Any, facts: _Facts) -> None:
        place, skipped = len(self._number), row.skipped is not None
        payload = {} if skipped else json.loads(row.payload)
        self._number.append(row.number)
        self._standing.append(row.undone is None)
        checked = not skipped and facts.gold is not None
        credit = gold_credit(facts.kind, payload, facts.gold or {}, facts.scale) if checked else math.nan
        _append(
            self._labels,
            rater=self._raters.setdefault(row.rater, len(self._raters)),
            item=facts.item,
            kind=KINDS.index(facts.kind),
            seconds=row.seconds,
            time=row.time,
            skipped=skipped,
            gold=facts.gold is not None,
            credit=credit,
        )
        if skipped or facts.gold is not None:
            return
        if facts.kind == "rate":
            low, high = facts.scale.low, facts.scale.high
            step = payload["score"] - low
            tolerance = steps_of_tolerance(facts.scale)
            _append(
                self._ratings,
                label=place,
                prompt=facts.prompt,
                source=self._source(facts.sources[0]),
                step=step,
                worth=step / (high - low),
                length=facts.lengths[0],
                tolerance=tolerance,
            )
        shown = {number: turn for turn, number in enumerate(json.loads(row.order))}
        for first, second, value in ordered_pairs(facts.kind, payload):
            _append(
                self._pairs,
                label=place,
                unit=first * _MOST_ANSWERS + second,
                prompt=facts.prompt,
                value=value,
                both_bad=bool(payload.get("both_bad")),
                first_shown=shown[first] < shown[second] if shown else -1,
                first_length=facts.lengths[first],
                second_length=facts.lengths[second],
                first_source=self._source(facts.sources[first]),
                second_source=self._source(facts.sources[second]),
            )

    def _source(self, name: str) -> int:
        return self._sources.setdefault(name, len(self._sources))

    def _take_back(self, numbers: Sequence[int]) -> None:
        known = np.frombuffer(self._number, np.int64)
        gone = np.flatnonzero(np.isin(known, np.array(numbers, np.int64), assume_unique=True))
        for place in gone.tolist():
            self._standing[place] = 0


def gold_credit(kind: str, payload: Mapping[str, Any], gold: Mapping[str, Any], scale: Scale) -> float:
    """How right an answer to a gold question is, 0…1.

    A comparison must prefer the same answer (or say tie); a rating may lie one step beside on scales of five and more;
    a ranking gets the share of the gold's ordered pairs that it orders likewise, its ties counting one half.

    Returns:
        NaN where nothing can be checked: demonstrations, and a gold ranking of ties alone.
    """
    if kind == "compare":
        return float(payload["preferred"] == gold["preferred"])
    if kind == "rate":
        return float(abs(payload["score"] - gold["score"]) <= steps_of_tolerance(scale))
    if kind != "rank":
        return math.nan
    given = {(first, second): value for first, second, value in ordered_pairs(kind, payload)}
    right = [(pair[:2], pair[2]) for pair in ordered_pairs(kind, gold) if pair[2] != 0.5]
    credits = [1 - abs(given.get(pair, 0.5) - value) for pair, value in right]
    return sum(credits) / len(credits) if credits else math.nan


def steps_of_tolerance(scale: Scale) -> int:
    """Steps by which two ratings may differ and still say the same."""
    return int(scale.high - scale.low >= 4)


def ordered_pairs(kind: str, payload: Mapping[str, Any]) -> list[tuple[int, int, float]]:
    """``(first, second, value)`` of all pairs of answers that a payload puts in order; unranked ones are in none.

    Example:
        >>> ordered_pairs("rank", {"ranks": [2, 1, 2]})
        [(0, 1, 0.0), (0, 2, 0.5), (1, 2, 1.0)]
    """
    if kind == "compare":
        return [(0, 1, {0: 1.0, 1: 0.0, None: 0.5}[payload["preferred"]])]
    if kind != "rank":
        return []
    placed = [(number, rank) for number, rank in enumerate(payload["ranks"]) if rank is not None]
    return [(i, j, 0.5 if a == b else float(a < b)) for (i, a), (j, b) in combinations(placed, 2)]


class _Facts:
    """What is kept of an item while its labels are taken apart."""

    def __init__(self, row: Any) -> None:
        answers = answer_records(row.answers)
        self.kind = row.kind
        self.item = _stands_for(row.id)
        self.prompt = _stands_for(row.prompt, row.messages)
        self.gold = None if row.gold is None else json.loads(row.gold)
        self.lengths = [len(answer.text) for answer in answers]
        self.sources = [answer.source for answer in answers]
        scale = {} if row.scale is None else json.loads(row.scale)
        self.scale = Scale(scale["low"], scale["high"], {}) if scale else Scale()


def _stands_for(*texts: str) -> int:
    """A number for a text; 63 bits, so that two among a million texts share one with a probability of 10⁻⁷."""
    digest = hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _columns(**kinds: str) -> dict[str, array]:
    return {name: array(kind) for name, kind in kinds.items()}


def _append(columns: dict[str, array], **values: Any) -> None:
    for name, value in values.items():
        columns[name].append(value)


def _kept(columns: dict[str, array], stands: NDArray[np.bool_], place: Ints) -> dict[str, Any]:
    """Columns of the rows whose label stands, labels by their place among those."""
    of = np.array(columns["label"], np.int64)
    kept = stands[of]
    found = {name: np.array(column)[kept] for name, column in columns.items()}
    return found | {"label": place[of[kept]]}


# Statements are built once: building one costs as much as running it.
_NEW = (
    sa.select(
        labels.c.number, labels.c.item, labels.c.rater, labels.c.payload, labels.c.seconds, labels.c.order,
        labels.c.skipped, labels.c.time, labels.c.undone,
    )
    .where(labels.c.number > sa.bindparam("after"))
    .order_by(labels.c.number)
    .limit(_CHUNK)
)  # fmt: skip
_ABOUT = sa.select(
    items.c.id, items.c.kind, items.c.prompt, items.c.messages, items.c.answers, items.c.scale, items.c.gold
).where(items.c.id.in_(sa.bindparam("ids", expanding=True)))
_COUNTED = sa.select(sa.func.coalesce(sa.func.sum(raters.c.labelled + raters.c.skipped), 0))
_UNDONE = sa.select(labels.c.number).where(labels.c.undone.is_not(None))
