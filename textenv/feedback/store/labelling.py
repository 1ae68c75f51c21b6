"""Labels into the database and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from textenv.errors import DataError
from textenv.feedback.store.assignment import shown_order
from textenv.feedback.store.contents import Item, Label, LabelledItem, check_payload
from textenv.feedback.store.database import Database
from textenv.feedback.store.rows import item_record, label_record, label_row
from textenv.feedback.store.schema import items, labels, leases, raters

_CHUNK = 500


class LabelConflict(DataError):
    """This rater has labelled this item already, or the label's id belongs to another label."""


def insert_label(connection: sa.Connection, label: Label, *, now: float) -> tuple[Label, bool]:
    """Put a label into the database; one with a known id changes nothing.

    Returns:
        The label as it stands in the database, and whether it is new.

    Raises:
        LabelConflict: If the id belongs to another label, or this rater has labelled this item before.
        DataError: If item, payload or order is unusable.
    """
    before = connection.execute(_KNOWN, {"of_id": label.id, "of_item": label.item, "of_rater": label.rater}).all()
    for known in map(label_record, before):
        if known.id == label.id and (known.item, known.rater) == (label.item, label.rater):
            return known, False
        if known.id == label.id:
            raise LabelConflict(f"the label id {label.id!r} belongs to another label; make a new one for each label")
    row = connection.execute(_ITEM, {"of_item": label.item}).first()
    if row is None:
        raise DataError(f"there is no item {label.item!r}")
    item = item_record(row)
    label = _completed(label, item, now)
    if before:
        raise LabelConflict(f"{label.rater} has labelled item {item.id} already; take that label back first")
    number = connection.execute(_INSERT, label_row(label)).inserted_primary_key
    assert number is not None
    connection.execute(_END_LEASE, {"of_item": item.id, "of_rater": label.rater})
    _count(connection, label, row, 1)
    return replace(label, number=number[0]), True


def take_back(connection: sa.Connection, rater: str, label_id: str | None, now: float) -> tuple[Label, Item] | None:
    """Mark a rater's newest standing label, or the one named, as undone; None where there is none."""
    query = sa.select(labels).where(labels.c.rater == rater, labels.c.undone.is_(None))
    if label_id is not None:
        query = query.where(labels.c.id == label_id)
    row = connection.execute(query.order_by(labels.c.number.desc()).limit(1)).first()
    if row is None:
        return None
    label = label_record(row)
    connection.execute(labels.update().where(labels.c.number == label.number).values(undone=now))
    item = connection.execute(sa.select(items).where(items.c.id == label.item)).one()
    _count(connection, label, item, -1)
    return replace(label, undone=now), item_record(item)


def newest(connection: sa.Connection, rater: str) -> Label | None:
    """A rater's newest label or skip that stands."""
    row = connection.execute(_NEWEST, {"of_rater": rater}).first()
    return None if row is None else label_record(row)


def iterate(database: Database, conditions: list[sa.ColumnElement[bool]], after: int) -> Iterator[LabelledItem]:
    """Labels with their items by number, a chunk at a time: no transaction stays open between them."""
    while True:
        chunk = sa.select(labels).where(labels.c.number > after, *conditions).order_by(labels.c.number).limit(_CHUNK)
        with database.read() as connection:
            found = [label_record(row) for row in connection.execute(chunk)]
            about = sa.select(items).where(items.c.id.in_({label.item for label in found}))
            known = {row.id: item_record(row) for row in connection.execute(about)}
        yield from (LabelledItem(label, known[label.item]) for label in found)
        if len(found) < _CHUNK:
            return
        after = found[-1].number


def _completed(label: Label, item: Item, now: float) -> Label:
    """The label with what the store knows, its payload and order checked."""
    order = label.order or shown_order(label.rater, item)
    if sorted(order) != list(range(len(item.answers))):
        raise DataError(f"`order` must name each of the {len(item.answers)} answers of item {item.id} once: {order}")
    payload = {} if label.skipped is not None else check_payload(item, label.payload)
    return replace(label, kind=item.kind, payload=payload, order=tuple(order), time=now, undone=None)


def _count(connection: sa.Connection, label: Label, item: Any, change: int) -> None:
    """Carry a label that came or went into the counters of its item and its rater."""
    changes = {"labels": 0, "skips": change} if label.skipped is not None else {"labels": change, "skips": 0}
    connection.execute(_COUNT_RATER, {"of_rater": label.rater, **changes})
    if label.skipped is None:
        done = item.done + change
        is_open = not item.closed and (item.is_gold or done < item.wanted)
        connection.execute(_COUNT_ITEM, {"of_item": item.id, "now_done": done, "now_open": is_open})


# Statements are built once: building one costs as much as running it.
_of_item, _of_rater = sa.bindparam("of_item"), sa.bindparam("of_rater")
_KNOWN = sa.select(labels).where(
    (labels.c.id == sa.bindparam("of_id"))
    | ((labels.c.item == _of_item) & (labels.c.rater == _of_rater) & labels.c.undone.is_(None))
)
_NEWEST = (
    sa.select(labels).where(labels.c.rater == _of_rater, labels.c.undone.is_(None)).order_by(labels.c.number.desc())
).limit(1)
_ITEM = sa.select(items).where(items.c.id == _of_item)
_INSERT = labels.insert()
_END_LEASE = leases.delete().where(leases.c.item == _of_item, leases.c.rater == _of_rater)
_COUNT_RATER = (
    raters.update()
    .where(raters.c.name == _of_rater)
    .values(labelled=raters.c.labelled + sa.bindparam("labels"), skipped=raters.c.skipped + sa.bindparam("skips"))
)
_COUNT_ITEM = (
    items.update().where(items.c.id == _of_item).values(done=sa.bindparam("now_done"), is_open=sa.bindparam("now_open"))
)
