"""Labels per hour, over time and now, and the state of the queue."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike

from textenv.feedback.store import KINDS, Database
from textenv.feedback.store.schema import items, leases

WIDTHS = (600.0, 3600.0, 4 * 3600.0, 86400.0, 7 * 86400.0, 28 * 86400.0)
"""Seconds that a bar of the chart may stand for."""

_BARS = 72
_NOW_SECONDS = 3600.0


class Pace(NamedTuple):
    """Labels per hour.

    Attributes:
        width: Seconds that a bar stands for.
        begins: When each bar begins, Unix seconds UTC.
        labels: Labels saved in it.
        now: Labels saved in the last hour.
        active: People who saved them.
    """

    width: float
    begins: list[float]
    labels: list[int]
    now: int
    active: int

    @property
    def per_hour(self) -> list[float]:
        """Labels per hour of each bar."""
        return [count * 3600 / self.width for count in self.labels]


def pace(times: ArrayLike, raters: ArrayLike, now: float) -> Pace:
    """Labels per hour from the first label to now; of a long time the latest part.

    Args:
        times: When labels were saved, Unix seconds UTC, shape ``(n,)``.
        raters: By whom, shape ``(n,)``.
        now: The time.
    """
    t, who = np.asarray(times, np.float64), np.asarray(raters)
    recent = (t > now - _NOW_SECONDS) & (t <= now)
    found = int(recent.sum()), len(np.unique(who[recent]))
    if not len(t):
        return Pace(WIDTHS[0], [], [], *found)
    first = float(t.min())
    width = next((each for each in WIDTHS if (now - first) / each <= _BARS - 1), WIDTHS[-1])
    last_bar = int(now // width)
    first_bar = max(int(first // width), last_bar - _BARS + 1)
    place = (t // width).astype(np.int64) - first_bar
    counts = np.bincount(place[(place >= 0) & (t <= now)], minlength=max(0, last_bar - first_bar + 1))
    begins = [(first_bar + bar) * width for bar in range(len(counts))]
    return Pace(width, begins, counts.tolist(), *found)


class Queue(NamedTuple):
    """Items of one kind; gold questions apart.

    Attributes:
        kind: What is asked.
        open: Items that want labels.
        done: Items that have what they want.
        withdrawn: Items that were taken out by hand.
        leased: Items that somebody has before them now.
        labels_left: Labels that the open items still want.
        gold: Gold questions that are asked.
    """

    kind: str
    open: int
    done: int
    withdrawn: int
    leased: int
    labels_left: int
    gold: int


def queue_state(database: Database, now: float) -> list[Queue]:
    """The queue of each kind that has items.

    Args:
        database: Of the store.
        now: Unix seconds UTC.
    """
    with database.read() as connection:
        counted = connection.execute(_COUNTED).all()
        leased = {row.kind: row.leased for row in connection.execute(_LEASED, {"now": now})}
    found: dict[str, dict[str, int]] = {}
    for row in counted:
        state = found.setdefault(row.kind, dict.fromkeys(("open", "done", "withdrawn", "labels_left", "gold"), 0))
        if row.is_gold:
            state["gold"] += row.number if row.is_open else 0
            continue
        state["open" if row.is_open else "withdrawn" if row.closed else "done"] += row.number
        state["labels_left"] += int(row.left) if row.is_open else 0
    return [Queue(kind=kind, leased=leased.get(kind, 0), **found[kind]) for kind in KINDS if kind in found]


# Statements are built once: building one costs as much as running it.
_states = (items.c.kind, items.c.is_gold, items.c.is_open, items.c.closed)
_COUNTED = sa.select(
    *_states, sa.func.count().label("number"), sa.func.sum(items.c.wanted - items.c.done).label("left")
).group_by(*_states)
_LEASED = (
    sa.select(items.c.kind, sa.func.count().label("leased"))
    .join(leases, leases.c.item == items.c.id)
    .where(leases.c.expires > sa.bindparam("now"))
    .group_by(items.c.kind)
)
