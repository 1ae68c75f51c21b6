"""Who gets what: the queue of items, leases, and the order in which answers are shown.

An item is leased to one rater for a while; where the lease ends without a label, somebody else gets it. Items come by
priority: random numbers, or what :meth:`FeedbackStore.reprioritise` found worth asking about. Gold questions are mixed
in at random places, which differ between raters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from textenv.feedback.store.contents import Assignment, Item, Progress
from textenv.feedback.store.rows import item_record
from textenv.feedback.store.schema import items, labels, leases, raters


def shown_order(rater: str, item: Item) -> tuple[int, ...]:
    """The answers of an item in the order that a rater sees: random, blind to policies, the same every time."""
    order = list(range(len(item.answers)))
    Random(_digest("order", rater, item.id)).shuffle(order)
    return tuple(order)


def keeps_overlap(item_id: str, overlap: float) -> bool:
    """Whether an item is among the share that several raters label; decided by its id alone."""
    return _fraction("overlap", item_id) < overlap


def first_priority(item_id: str) -> float:
    """The random priority of an item that nothing is known about, in [0, 1)."""
    return _fraction("priority", item_id)


def lease_next(
    connection: sa.Connection,
    rater: str,
    kinds: Sequence[str],
    *,
    now: float,
    lease_seconds: float,
    wants_gold: bool,
    holds: bool = True,
) -> Assignment | None:
    """Lease the next item to a rater, or renew the lease that they hold; None where nothing is left for them.

    Args:
        connection: In a transaction that writes.
        rater: Who asks.
        kinds: What they want to do.
        now: Unix seconds.
        lease_seconds: How long the lease is.
        wants_gold: Prefer a gold question.
        holds: Whether the rater may hold a lease already.
    """
    values = {"rater": rater, "kinds": list(kinds), "now": now}
    found = connection.execute(_HELD, values).first() if holds else None
    if found is None and wants_gold:
        found = connection.execute(_NEXT_GOLD, values).first()
    if found is None:
        found = connection.execute(_NEXT_OPEN, values).first()
    return None if found is None else give_lease(connection, rater, item_record(found), now + lease_seconds)


def asks_gold(rater: str, dealt_with: int, gold_share: float) -> bool:
    """Whether a rater's next item is a gold question, after so many items; nobody can tell beforehand."""
    return gold_share > 0 and _fraction("gold", rater, str(dealt_with)) < gold_share


def drop_expired(connection: sa.Connection, now: float) -> None:
    """Clear leases away that have ended; they count for nothing already."""
    connection.execute(_DROP_EXPIRED, {"now": now})


def give_lease(connection: sa.Connection, rater: str, item: Item, expires: float) -> Assignment:
    """Lease an item to a rater until then, whoever else has it."""
    values = {"item": item.id, "rater": rater, "expires": expires}
    upsert = _UPSERTS.get(connection.dialect.name)
    if upsert is not None:
        connection.execute(upsert, values)
    elif connection.execute(_RENEW, {"of_item": item.id, "of_rater": rater, "until": expires}).rowcount == 0:
        connection.execute(_LEASE, values)
    return Assignment(item, shown_order(rater, item), expires)


def current(connection: sa.Connection, rater: str, item_id: str, now: float) -> Assignment | None:
    """The lease that a rater holds on an item, where it has not expired."""
    row = connection.execute(_CURRENT, {"rater": rater, "item": item_id, "now": now}).first()
    if row is None:
        return None
    item = item_record(row)
    return Assignment(item, shown_order(rater, item), row.expires)


def open_count(connection: sa.Connection) -> int:
    """Items that want labels, gold questions apart. Goes through all of them: a millisecond for ten thousand."""
    return connection.execute(_OPEN_COUNT).scalar_one()


def progress(connection: sa.Connection, rater: str | None, open_items: int) -> Progress:
    """Labels and skips that stand, and the open items that a rater (or anybody) has not dealt with; gold apart."""
    row = connection.execute(_PROGRESS if rater is None else _PROGRESS_OF_RATER, {"rater": rater}).one()
    return Progress(int(row.labelled), int(row.skipped), max(0, open_items - int(row.dealt_with)))


# Statements are built once: building one costs as much as running it.
_rater, _now = sa.bindparam("rater"), sa.bindparam("now")
_open = (items.c.is_open == sa.true()) & (items.c.is_gold == sa.false())


def _next(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The open item with the highest priority that a rater has not dealt with."""
    dealt_with = (
        sa.select(labels.c.number)
        .where(labels.c.item == items.c.id, labels.c.rater == _rater, labels.c.undone.is_(None))
        .correlate(items)
        .exists()
    )
    return (
        sa.select(items)
        .where(items.c.is_open == sa.true(), which, items.c.kind.in_(sa.bindparam("kinds", expanding=True)))
        .where(~dealt_with)
        .order_by(items.c.priority.desc())
        .limit(1)
    )


_leases_of_item = (
    sa.select(sa.func.count())
    .where(leases.c.item == items.c.id, leases.c.expires > _now)
    .correlate(items)
    .scalar_subquery()
)
_NEXT_OPEN = _next((items.c.is_gold == sa.false()) & (items.c.done + _leases_of_item < items.c.wanted))
_NEXT_GOLD = _next(items.c.is_gold == sa.true())
_HELD = (
    sa.select(items)
    .join(leases, leases.c.item == items.c.id)
    .where(leases.c.rater == _rater, leases.c.expires > _now)
    .where(items.c.kind.in_(sa.bindparam("kinds", expanding=True)))
    .limit(1)
)
_CURRENT = (
    sa.select(items, leases.c.expires)
    .join(leases, leases.c.item == items.c.id)
    .where(leases.c.rater == _rater, leases.c.item == sa.bindparam("item"), leases.c.expires > _now)
)
_RENEW = (
    leases.update()
    .where(leases.c.item == sa.bindparam("of_item"), leases.c.rater == sa.bindparam("of_rater"))
    .values(expires=sa.bindparam("until"))
)
_LEASE = leases.insert()


def _upsert(insert: Callable[[sa.Table], Any]) -> sa.Executable:
    statement = insert(leases)
    return statement.on_conflict_do_update(
        index_elements=[leases.c.item, leases.c.rater], set_={"expires": statement.excluded.expires}
    )


_UPSERTS = {"sqlite": _upsert(sqlite.insert), "postgresql": _upsert(postgresql.insert)}
_DROP_EXPIRED = leases.delete().where(leases.c.expires <= _now)

_OPEN_COUNT = sa.select(sa.func.count()).select_from(items).where(_open)
# Item by item, from the rater's few labels: as a join, SQLite goes through all open items instead.
_its_item_is_open = sa.select(items.c.id).where(items.c.id == labels.c.item, _open).correlate(labels).exists()
_open_dealt_with = (
    sa.select(sa.func.count())
    .where(labels.c.rater == _rater, labels.c.undone.is_(None), _its_item_is_open)
    .scalar_subquery()
)
_labelled = sa.func.coalesce(sa.func.sum(raters.c.labelled), 0).label("labelled")
_skipped = sa.func.coalesce(sa.func.sum(raters.c.skipped), 0).label("skipped")
_PROGRESS = sa.select(_labelled, _skipped, sa.literal(0).label("dealt_with"))
_PROGRESS_OF_RATER = sa.select(_labelled, _skipped, _open_dealt_with.label("dealt_with")).where(raters.c.name == _rater)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode()).digest()


def _fraction(*parts: str) -> float:
    return int.from_bytes(_digest(*parts)[:6]) / 2**48
