"""Items and labels of a file into the database: all or none, the same thing once, nothing that nobody said.

Items are the same where kind, prompt, scale and answers are, in whatever order these stand. An id that two things
share is a name, no id: the second gets one of its own. Orders of showing that a file does not tell stay unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from textenv.answers import as_json
from textenv.errors import DataError
from textenv.feedback.store.assignment import first_priority
from textenv.feedback.store.contents import Entry, Item, Label, Said, check_payload, check_rater
from textenv.feedback.store.rows import dumps, item_record, item_row, label_record, label_row
from textenv.feedback.store.schema import items, labels, leases, raters

IMPORTED = "imported"
"""Rater of labels that name none; the second opinion on the same thing is of ``imported-2``, and so on."""

_CHUNK = 500
_ANONYMOUS = re.compile(rf"{IMPORTED}(-\d+)?")


class Brought(NamedTuple):
    """What came into the store.

    Attributes:
        items: New items.
        labels: New labels and skips.
        known: Labels and skips that were there before.
        repeated: New ones whose rater has said something else of the same item, too: kept as of ``name (2)``.
    """

    items: int
    labels: int
    known: int
    repeated: int


def is_anonymous(rater: str) -> bool:
    """Whether this rater stands for somebody whom a file did not name."""
    return _ANONYMOUS.fullmatch(rater) is not None


def label_id(item: str, rater: str, payload: Mapping[str, Any]) -> str:
    """An id made of the content, so that importing twice counts once."""
    content = dumps([item, rater, dict(sorted(payload.items()))])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def bring(connection: sa.Connection, entries: Sequence[Entry], now: float) -> Brought:
    """Take in what a file holds; see :meth:`FeedbackStore.bring`.

    Args:
        connection: In a transaction that writes, which an error ends.
        entries: Of the file.
        now: Unix seconds.

    Raises:
        DataError: If an item or label cannot be kept.
    """
    intake = _Intake(connection, entries)
    for entry in entries:
        with located(entry.where):
            intake.take(entry)
    intake.write(now)
    return Brought(len(intake.new_items), len(intake.new_labels), intake.known, intake.repeated)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Mistakes become a `DataError` that says where it stands."""
    try:
        yield
    except (TypeError, KeyError, ValueError) as error:  # a DataError is a ValueError
        message = f"a field is missing: {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(message if message.startswith(where) else f"{where}: {message}") from error


class _Standing:
    """An item of the database or of this file, and who has said what of it."""

    def __init__(self, item: Item, row: Any = None) -> None:
        self.item = item
        self.row = row
        self.content = _content(item)
        self.raters: set[str] = set()
        # Labels of the database that the file has not named yet, by rater; None for those without a name.
        self.unclaimed: dict[str | None, list[Label]] = {}

    def add(self, label: Label) -> None:
        """A label that stands in the database."""
        self.raters.add(label.rater)
        self.unclaimed.setdefault(_base(label), []).append(label)

    def claim(self, label: Label) -> None:
        """Note that the file has named it."""
        left = self.unclaimed.get(_base(label), [])
        self.unclaimed[_base(label)] = [other for other in left if other.id != label.id]


class _Intake:
    def __init__(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        self._connection = connection
        self._items: dict[str, _Standing] = {}
        self._load({entry.item.id for entry in entries})
        self._ids = self._labels_with({said.id for entry in entries for said in entry.said if said.id})
        self.new_items: list[_Standing] = []
        self.new_labels: list[Label] = []
        self.known = self.repeated = 0

    def _load(self, ids: set[str]) -> None:
        """Items with these ids, and what was said of them."""
        for chunk in _chunks(ids):
            for row in self._connection.execute(sa.select(items).where(items.c.id.in_(chunk))):
                self._items[row.id] = _Standing(item_record(row), row)
            standing = sa.select(labels).where(labels.c.item.in_(chunk), labels.c.undone.is_(None))
            for label in map(label_record, self._connection.execute(standing.order_by(labels.c.number))):
                self._items[label.item].add(label)

    def _labels_with(self, ids: set[str]) -> dict[str, Label]:
        found = [self._connection.execute(sa.select(labels).where(labels.c.id.in_(chunk))) for chunk in _chunks(ids)]
        return {row.id: label_record(row) for rows in found for row in rows}

    def take(self, entry: Entry) -> None:
        standing = self._standing(entry.item)
        place = _places(entry.item, standing.item)
        for said in entry.said:
            self._say(standing, _moved(said, place))

    def _standing(self, item: Item) -> _Standing:
        """The item as it is known, or made known: under its id, or where that is another's, under one of its own."""
        content = _content(item)
        for name in (item.id, f"{item.id[:180]}#{hashlib.sha256(content.encode()).hexdigest()[:12]}"):
            if name not in self._items:
                self._load({name} if name != item.id else set())
            standing = self._items.get(name)
            if standing is None:
                standing = self._items[name] = _Standing(replace(item, id=name))
                self.new_items.append(standing)
            if standing.content == content:
                return standing
        raise DataError(f"there is another item {item.id!r} already")

    def _say(self, standing: _Standing, said: Said) -> None:
        item = standing.item
        payload = {} if said.skipped is not None else check_payload(item, said.payload)
        if said.order and sorted(said.order) != list(range(len(item.answers))):
            raise DataError(f"`order` must name each of the {len(item.answers)} answers once: {said.order}")
        before = self._ids.get(said.id)
        if before is not None and (before.item, before.payload, before.skipped) == (item.id, payload, said.skipped):
            self.known += 1
            standing.claim(before)
            return
        base = None if said.rater is None or is_anonymous(said.rater) else said.rater
        same = (label for label in standing.unclaimed.get(base, ()) if label.payload == payload)
        found = next((label for label in same if label.skipped == said.skipped), None)
        if found is not None:
            self.known += 1
            standing.claim(found)
            return
        rater = _free_name(said.rater, base, standing.raters)
        check_rater(rater)
        self.repeated += base is not None and rater != base
        label = Label(
            (said.id if before is None else "") or label_id(item.id, rater, payload),
            item.id,
            rater,
            payload,
            seconds=said.seconds,
            order=said.order,
            skipped=said.skipped,
            extra={**said.extra, "rater": base} if base is not None and rater != base else said.extra,
            kind=item.kind,
        )
        standing.raters.add(rater)
        self._ids[label.id] = label
        self.new_labels.append(label)

    def write(self, now: float) -> None:
        """Everything into the database."""
        done = Counter(label.item for label in self.new_labels if label.skipped is None)
        rows = []
        for standing in self.new_items:
            item, count = standing.item, done.pop(standing.item.id, 0)
            row = item_row(item, priority=first_priority(item.id), wanted=item.wanted, now=now)
            rows.append({**row, "done": count, "is_open": row["is_gold"] or count < item.wanted})
        self._many(items.insert(), rows)
        changed = []
        for item_id, count in done.items():
            row = self._items[item_id].row
            total = row.done + count
            is_open = not row.closed and (row.is_gold or total < row.wanted)
            changed.append({"of_item": item_id, "now_done": total, "now_open": is_open})
        self._many(_COUNT_ITEM, changed)
        names = {label.rater for label in self.new_labels}
        known = {
            name
            for chunk in _chunks(names)
            for name in self._connection.execute(sa.select(raters.c.name).where(raters.c.name.in_(chunk))).scalars()
        }
        fresh = {"active": True, "created": now, "note": "", "labelled": 0, "skipped": 0}
        self._many(raters.insert(), [{"name": name, **fresh} for name in sorted(names - known)])
        given = Counter((label.rater, label.skipped is not None) for label in self.new_labels)
        counts = [{"of_rater": n, "labels": given[n, False], "skips": given[n, True]} for n in sorted(names)]
        self._many(_COUNT_RATER, counts)
        self._many(labels.insert(), [label_row(replace(label, time=now)) for label in self.new_labels])
        old = [label for label in self.new_labels if self._items[label.item].row is not None]
        self._many(_END_LEASE, [{"of_item": label.item, "of_rater": label.rater} for label in old])

    def _many(self, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._connection.execute(statement, rows)


def _base(label: Label) -> str | None:
    """Who said it, whatever the store calls them; None where nobody knows."""
    return None if is_anonymous(label.rater) else label.extra.get("rater") or label.rater


def _free_name(rater: str | None, base: str | None, taken: set[str]) -> str:
    """What the store calls somebody: of one item it keeps one label by each name."""
    if rater is not None and rater not in taken:
        return rater
    first, more = (IMPORTED, f"{IMPORTED}-%d") if base is None else (base, f"{base.replace('%', '%%')} (%d)")
    names = (first if number == 1 else more % number for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _content(item: Item) -> str:
    """What an item asks, whatever the order of its answers."""
    scale = [item.scale.low, item.scale.high] if item.scale is not None else None
    messages = [dict(message) for message in item.messages]
    return dumps([item.kind, item.prompt, messages, scale, item.instructions, sorted(map(_key, item.answers))])


def _key(answer: Any) -> str:
    return dumps(as_json(answer.text))


def _places(given: Item, standing: Item) -> tuple[int, ...]:
    """For each answer of a file's item its number in the one that is known."""
    free = list(enumerate(map(_key, standing.answers)))
    places = []
    for key in map(_key, given.answers):
        found = next(number for number, (_, other) in enumerate(free) if other == key)
        places.append(free.pop(found)[0])
    return tuple(places)


def _moved(said: Said, place: Sequence[int]) -> Said:
    """The same in the numbers of the item that is known."""
    if list(place) == sorted(place):
        return said
    payload = dict(said.payload)
    if payload.get("preferred") in (0, 1):
        payload["preferred"] = place[payload["preferred"]]
    ranks = payload.get("ranks")
    if isinstance(ranks, list | tuple) and len(ranks) == len(place):
        payload["ranks"] = [ranks[place.index(number)] for number in range(len(place))]
    extra = dict(said.extra)
    if "listed" in extra:
        extra["listed"] = [place[number] for number in extra["listed"]]
    if extra.get("best") is not None:
        extra["best"] = place[extra["best"]]
    fits = all(number in range(len(place)) for number in said.order)
    order = tuple(place[number] for number in said.order) if fits else said.order
    return said._replace(payload=payload, order=order, extra=extra)


def _chunks(values: set[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    return (ordered[begin : begin + _CHUNK] for begin in range(0, len(ordered), _CHUNK))


_COUNT_ITEM = (
    items.update()
    .where(items.c.id == sa.bindparam("of_item"))
    .values(done=sa.bindparam("now_done"), is_open=sa.bindparam("now_open"))
)
_COUNT_RATER = (
    raters.update()
    .where(raters.c.name == sa.bindparam("of_rater"))
    .values(labelled=raters.c.labelled + sa.bindparam("labels"), skipped=raters.c.skipped + sa.bindparam("skips"))
)
_END_LEASE = leases.delete().where(leases.c.item == sa.bindparam("of_item"), leases.c.rater == sa.bindparam("of_rater"))
