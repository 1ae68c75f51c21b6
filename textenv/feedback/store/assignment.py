"""Who gets what: the queue of items, leases, and the order in which answers are shown.

An item is leased to one rater for a while; where the lease ends without a label, somebody else gets it. Items come by
priority: random numbers, or what :meth:`FeedbackStore.reprioritise` found worth asking about. Gold questions are mixed
in at random places, which differ between raters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

import sqlalchemy as sa

from textenv.feedback.store.records import Assignment, Item
from textenv.feedback.store.rows import item_record
from textenv.feedback.store.schema import items, labels, leases


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
    connection: sa.Connection, rater: str, kinds: Sequence[str], *, now: float, lease_seconds: float, gold_share: float
) -> Assignment | None:
    """Lease the next item to a rater, or renew the lease that they hold; None where nothing is left for them."""
    connection.execute(leases.delete().where(leases.c.expires <= now))
    held = connection.execute(
        sa.select(items)
        .join(leases, leases.c.item == items.c.id)
        .where(leases.c.rater == rater, items.c.kind.in_(kinds))
        .limit(1)
    ).first()
    if held is None:
        count = connection.execute(sa.select(sa.func.count()).where(labels.c.rater == rater)).scalar_one()
        wants_gold = _fraction("gold", rater, str(count)) < gold_share
        held = _next_gold(connection, rater, kinds) if wants_gold else None
        held = held or _next_open(connection, rater, kinds, now)
        if held is None:
            return None
    item = item_record(held)
    return give_lease(connection, rater, item, now + lease_seconds)


def give_lease(connection: sa.Connection, rater: str, item: Item, expires: float) -> Assignment:
    """Lease an item to a rater until then, whoever else has it."""
    mine = (leases.c.item == item.id) & (leases.c.rater == rater)
    if connection.execute(leases.update().where(mine).values(expires=expires)).rowcount == 0:
        connection.execute(leases.insert().values(item=item.id, rater=rater, expires=expires))
    return Assignment(item, shown_order(rater, item), expires)


def current(connection: sa.Connection, rater: str, item_id: str, now: float) -> Assignment | None:
    """The lease that a rater holds on an item, where it has not expired."""
    row = connection.execute(
        sa.select(items, leases.c.expires)
        .join(leases, leases.c.item == items.c.id)
        .where(leases.c.rater == rater, leases.c.item == item_id, leases.c.expires > now)
    ).first()
    if row is None:
        return None
    item = item_record(row)
    return Assignment(item, shown_order(rater, item), row.expires)


def remaining(connection: sa.Connection, rater: str | None) -> int:
    """Open items, gold questions apart; those that a rater has dealt with are not counted for them."""
    is_open = items.c.is_open.is_(True) & items.c.is_gold.is_(False)
    count = connection.execute(sa.select(sa.func.count()).select_from(items).where(is_open)).scalar_one()
    if rater is None:
        return count
    dealt_with = (
        sa.select(sa.func.count())
        .select_from(labels.join(items, labels.c.item == items.c.id))
        .where(labels.c.rater == rater, labels.c.undone.is_(None), is_open)
    )
    return count - connection.execute(dealt_with).scalar_one()


def _next_open(connection: sa.Connection, rater: str, kinds: Sequence[str], now: float) -> sa.Row | None:
    leased = (
        sa.select(sa.func.count())
        .where(leases.c.item == items.c.id, leases.c.expires > now)
        .correlate(items)
        .scalar_subquery()
    )
    wanting = items.c.done + leased < items.c.wanted
    return _first(connection, rater, kinds, items.c.is_gold.is_(False) & wanting)


def _next_gold(connection: sa.Connection, rater: str, kinds: Sequence[str]) -> sa.Row | None:
    return _first(connection, rater, kinds, items.c.is_gold.is_(True))


def _first(connection: sa.Connection, rater: str, kinds: Sequence[str], which: sa.ColumnElement[bool]) -> sa.Row | None:
    dealt_with = (
        sa.select(labels.c.number)
        .where(labels.c.item == items.c.id, labels.c.rater == rater, labels.c.undone.is_(None))
        .correlate(items)
        .exists()
    )
    query = (
        sa.select(items)
        .where(items.c.is_open.is_(True), which, items.c.kind.in_(kinds), ~dealt_with)
        .order_by(items.c.priority.desc())
        .limit(1)
    )
    return connection.execute(query).first()


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode()).digest()


def _fraction(*parts: str) -> float:
    return int.from_bytes(_digest(*parts)[:6]) / 2**48
