"""The store: one object for all that is asked and said, backed by a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import sqlalchemy as sa

from textenv.errors import ConfigError, DataError
from textenv.feedback.privacy import PromptFilter, mask_personal_data
from textenv.feedback.store import assignment, history, intake, labelling, rows, schema
from textenv.feedback.store.contents import (
    KINDS,
    Assignment,
    CollectedPrompt,
    Entry,
    Item,
    Label,
    LabelledItem,
    PolicyVersion,
    Progress,
    Rater,
    Round,
    check_rater,
)
from textenv.feedback.store.database import Database

Selector = Callable[[Sequence[Item]], Sequence[float]]
"""How much a label of each item is worth, e.g. by the disagreement within an ensemble of reward models."""


class Saved(NamedTuple):
    """What became of a label.

    Attributes:
        label: As it stands in the store.
        new: False where it had been saved before.
    """

    label: Label
    new: bool


class Standing(NamedTuple):
    """Where a rater stands.

    Attributes:
        progress: How far they have come.
        newest: Their newest label or skip that stands, which an undo takes back; None where there is none.
    """

    progress: Progress
    newest: Label | None


class FeedbackStore:
    """Items, labels, raters, leases, collected prompts, rounds and policy versions.

    Every method is one transaction and may be called from any thread; several processes may use one database.

    Args:
        where: A file for SQLite, made where there is none, or an SQLAlchemy URL.
        lease_seconds: How long an item stays with the rater who got it.
        gold_share: Share of gold questions among what a rater gets, as long as there are any.
        prompt_filter: Changes collected prompts before they are kept; :func:`mask_personal_data` unless told otherwise.
        durability: As in :class:`Database`.
        clock: Unix seconds.

    Raises:
        ConfigError: If an argument is out of its range or the database's address is unusable.
        DataError: If the database cannot be opened, or is too new.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        lease_seconds: float = 900.0,
        gold_share: float = 0.1,
        prompt_filter: PromptFilter = mask_personal_data,
        durability: Literal["process", "power"] = "process",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not lease_seconds > 0 or not 0 <= gold_share <= 1:
            raise ConfigError(
                f"need `lease_seconds` > 0 and `gold_share` from 0 to 1, got {lease_seconds} and {gold_share}"
            )
        self.database = Database(where, durability=durability)
        self.lease_seconds = lease_seconds
        self.gold_share = gold_share
        self.prompt_filter = prompt_filter
        self._clock = clock
        self._sweep_at = 0.0
        self._open = (0, 0.0)  # open items, and when they were counted
        try:
            with self.database.write() as connection:
                schema.prepare(connection)
        except BaseException:  # nothing is swallowed: a store that is not made leaves no connection
            self.database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # --- items --------------------------------------------------------------------------------------------------------

    def add_items(self, items: Iterable[Item], *, overlap: float = 1.0) -> int:
        """Put items into the queue; those that are in it already change nothing.

        Args:
            items: What to ask.
            overlap: Share of the items that as many raters label as they want; the others are labelled by one.

        Returns:
            How many are new.

        Raises:
            ConfigError: If the share is none.
        """
        if not 0 <= overlap <= 1:
            raise ConfigError(f"`overlap` must lie in 0…1, got {overlap}")
        by_id = {item.id: item for item in items}
        with self.database.write() as connection:
            fresh = [item for item in by_id.values() if not _has_item(connection, item.id)]
            now = self._clock()
            for item in fresh:
                wanted = item.wanted if assignment.keeps_overlap(item.id, overlap) else 1
                row = rows.item_row(item, priority=assignment.first_priority(item.id), wanted=wanted, now=now)
                connection.execute(schema.items.insert().values(row))
        return len(fresh)

    def bring(self, entries: Iterable[Entry]) -> intake.Brought:
        """Take in items and labels that a file holds: all of them, or none where one cannot be kept.

        Items that are there already are the same ones, whatever the order of their answers; a label that is there
        already counts once. Labels without a rater are those of as many people as opinions differ or repeat; what a
        rater says besides of the same item is kept as of ``name (2)``. Orders of showing may be unknown.

        Raises:
            DataError: If an item or label is unusable: says where it stands.
        """
        found = list(entries)  # read before anybody has to wait
        with self.database.write() as connection:
            return intake.bring(connection, found, self._clock())

    def item(self, item_id: str) -> Item:
        """The item with this id.

        Raises:
            DataError: If there is none.
        """
        with self.database.read() as connection:
            row = connection.execute(sa.select(schema.items).where(schema.items.c.id == item_id)).first()
        if row is None:
            raise DataError(f"there is no item {item_id!r}")
        return rows.item_record(row)

    def items(
        self, *, kind: str | None = None, open_only: bool = False, gold: bool | None = None, limit: int | None = None
    ) -> list[Item]:
        """Items, those that are asked first first.

        Args:
            kind: Only of this kind.
            open_only: Only those that want labels.
            gold: Only gold questions, or only others; None means all.
            limit: At most so many.
        """
        table = schema.items.c
        query = sa.select(schema.items).order_by(table.priority.desc(), table.id).limit(limit)
        if kind is not None:
            query = query.where(table.kind == kind)
        if open_only:
            query = query.where(table.is_open.is_(True))
        if gold is not None:
            query = query.where(table.is_gold.is_(gold))
        with self.database.read() as connection:
            return [rows.item_record(row) for row in connection.execute(query)]

    def open_items(self, limit: int | None = None) -> list[Item]:
        """Items that want labels, gold questions apart."""
        return self.items(open_only=True, gold=False, limit=limit)

    def item_count(self) -> int:
        """How many items there are, of all kinds, open or not."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(schema.items)).scalar_one()

    def set_priorities(self, priorities: Mapping[str, float]) -> None:
        """Change what is asked first: larger numbers come earlier.

        Many are changed a few hundred at a time, so that nobody's label waits long for its turn to be written.
        """
        found = [{"of_id": item_id, "to": float(priority)} for item_id, priority in priorities.items()]
        for begin in range(0, len(found), _PRIORITIES):
            with self.database.write() as connection:
                connection.execute(_SET_PRIORITY, found[begin : begin + _PRIORITIES])
            time.sleep(_PAUSE_SECONDS)

    def reprioritise(self, selector: Selector) -> int:
        """Let a selector say which open items are asked first; how many there are.

        Raises:
            DataError: If the selector does not return one number per item.
        """
        waiting = self.open_items()
        values = [float(value) for value in selector(waiting)] if waiting else []
        if len(values) != len(waiting):
            raise DataError(f"the selector returned {len(values)} numbers for {len(waiting)} items")
        self.set_priorities({item.id: value for item, value in zip(waiting, values, strict=True)})
        return len(waiting)

    def close_items(self, item_ids: Iterable[str]) -> None:
        """Take items out of the queue; their labels stay."""
        with self.database.write() as connection:
            which = schema.items.c.id.in_(list(item_ids))
            connection.execute(schema.items.update().where(which).values(closed=True, is_open=False))

    # --- assignment ---------------------------------------------------------------------------------------------------

    def next_assignment(self, rater: str, *, kinds: Sequence[str] = KINDS) -> Assignment | None:
        """Lease an item to a rater; the one that they have not finished comes again.

        Args:
            rater: Who asks; registered where unknown.
            kinds: What they want to do.

        Returns:
            None where nothing is left for this rater now.

        Raises:
            DataError: If the rater is not active.
        """
        with self.database.write() as connection:
            return self._lease_next(connection, rater, kinds)

    def next_with_standing(self, rater: str, *, kinds: Sequence[str] = KINDS) -> tuple[Assignment | None, Standing]:
        """:meth:`next_assignment`, how far the rater has come, and what an undo would take back; in one transaction."""
        with self.database.write() as connection:
            given = self._lease_next(connection, rater, kinds)
            return given, self._standing(connection, rater)

    def assignment(self, rater: str, item_id: str) -> Assignment | None:
        """The lease that a rater holds on an item; None where there is none, or it has expired."""
        with self.database.read() as connection:
            return assignment.current(connection, rater, item_id, self._clock())

    def release(self, rater: str) -> None:
        """Let others have what this rater was given."""
        with self.database.write() as connection:
            connection.execute(schema.leases.delete().where(schema.leases.c.rater == rater))

    def progress(self, rater: str | None = None) -> Progress:
        """How far labelling has come, for one rater or (None) for all.

        In a queue of thousands, how many items remain may be what it was up to a second ago.
        """
        with self.database.read() as connection:
            return assignment.progress(connection, rater, self._open_count(connection))

    def _lease_next(self, connection: sa.Connection, rater: str, kinds: Sequence[str]) -> Assignment | None:
        now = self._clock()
        dealt_with, holds = _register(connection, rater, now)
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            assignment.drop_expired(connection, now)
        return assignment.lease_next(
            connection,
            rater,
            kinds,
            now=now,
            lease_seconds=self.lease_seconds,
            wants_gold=assignment.asks_gold(rater, dealt_with, self.gold_share),
            holds=holds,
        )

    def _standing(self, connection: sa.Connection, rater: str) -> Standing:
        progress = assignment.progress(connection, rater, self._open_count(connection))
        return Standing(progress, labelling.newest(connection, rater))

    def _open_count(self, connection: sa.Connection) -> int:
        count, counted = self._open
        if count < _MANY or not 0 <= self._clock() - counted < _COUNT_SECONDS:
            count = assignment.open_count(connection)
            self._open = (count, self._clock())
        return count

    # --- labels -------------------------------------------------------------------------------------------------------

    def save_label(self, label: Label) -> Saved:
        """Keep a label. When this returns, the label survives the death of the process.

        A lease is not needed: work that took longer than its lease is not lost.

        Raises:
            LabelConflict: If this rater has labelled this item before, or the label's id is another's.
            DataError: If the item is unknown, the rater not active, or payload or order unusable.
        """
        now = self._clock()
        with self.database.write() as connection:
            _register(connection, label.rater, now)
            return Saved(*labelling.insert_label(connection, label, now=now))

    def undo(self, rater: str, label_id: str | None = None) -> Label | None:
        """Take a rater's newest label (or the one named) back; its item is theirs again.

        Returns:
            The label, or None where there is none that stands.
        """
        now = self._clock()
        with self.database.write() as connection:
            found = labelling.take_back(connection, rater, label_id, now)
            if found is None:
                return None
            label, item = found
            connection.execute(schema.leases.delete().where(schema.leases.c.rater == rater))
            assignment.give_lease(connection, rater, item, now + self.lease_seconds)
            return label

    def labels(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        since: float | None = None,
        kind: str | None = None,
        rater: str | None = None,
        include_undone: bool = False,
        include_skipped: bool = False,
        include_gold: bool = True,
    ) -> Iterator[LabelledItem]:
        """Labels in the order in which they were saved, with their items.

        Args:
            after: Only with a larger number; what a round begins after.
            upto: Only up to this number.
            since: Only saved at this time or later, Unix seconds.
            kind: Only of this kind.
            rater: Only of this person.
            include_undone: Also those that were taken back.
            include_skipped: Also skips.
            include_gold: Also answers to gold questions.
        """
        table = schema.labels.c
        limits = [(table.number.__le__, upto), (table.time.__ge__, since), (table.kind.__eq__, kind)]
        limits.append((table.rater.__eq__, rater))
        conditions = [compare(value) for compare, value in limits if value is not None]
        if not include_undone:
            conditions.append(table.undone.is_(None))
        if not include_skipped:
            conditions.append(table.skipped.is_(None))
        found = labelling.iterate(self.database, conditions, after)
        return (each for each in found if include_gold or each.item.gold is None)

    # --- raters -------------------------------------------------------------------------------------------------------

    def add_rater(self, name: str, note: str = "") -> Rater:
        """Register a rater; one who is known changes nothing."""
        with self.database.write() as connection:
            _register(connection, name, self._clock(), note, refuse=False)
            return rows.rater_record(connection.execute(_RATER, {"of_name": name}).one())

    def raters(self) -> list[Rater]:
        """All raters by name."""
        with self.database.read() as connection:
            query = sa.select(schema.raters).order_by(schema.raters.c.name)
            return [rows.rater_record(row) for row in connection.execute(query)]

    def set_rater_active(self, name: str, active: bool) -> None:
        """Let a rater label, or no longer; their labels stay, their leases end.

        Raises:
            DataError: If there is no such rater.
        """
        with self.database.write() as connection:
            change = schema.raters.update().where(schema.raters.c.name == name).values(active=active)
            if connection.execute(change).rowcount == 0:
                raise DataError(f"there is no rater {name!r}")
            connection.execute(schema.leases.delete().where(schema.leases.c.rater == name))

    # --- prompts, rounds, policies ------------------------------------------------------------------------------------

    def collect_prompt(
        self, text: str, *, messages: Sequence[Mapping[str, Any]] = (), source: str = ""
    ) -> CollectedPrompt:
        """Keep a prompt for labelling, filtered; one that came before is counted once more.

        Of messages everything is kept that is said in them, tool calls included.
        """
        text = self.prompt_filter(text)
        chat = [self._filtered(message) for message in messages]
        with self.database.write() as connection:
            return history.keep_prompt(connection, text, chat, source, self._clock())

    def _filtered(self, value: Any, name: str = "") -> Any:
        """Messages with the texts in them filtered; what names something stays."""
        if isinstance(value, str):
            return value if name in _NAMES else self.prompt_filter(value)
        if isinstance(value, Mapping):
            return {key: self._filtered(each, key) for key, each in value.items()}
        return [self._filtered(each) for each in value] if isinstance(value, list | tuple) else value

    def prompts(self, *, unused_only: bool = False, limit: int | None = None) -> list[CollectedPrompt]:
        """Collected prompts, the oldest first; only those of which no items were made, where asked for."""
        with self.database.read() as connection:
            return history.kept_prompts(connection, unused_only, limit)

    def mark_prompts_used(self, prompt_ids: Iterable[str]) -> None:
        """Note that items were made of these prompts."""
        with self.database.write() as connection:
            which = schema.prompts.c.id.in_(list(prompt_ids))
            connection.execute(schema.prompts.update().where(which).values(used=self._clock()))

    def begin_round(self) -> Round:
        """Begin a round of training with all labels since the last one; one that is under way goes on."""
        with self.database.write() as connection:
            return history.begin(connection, self._clock())

    def extend_round(self, number: int, upto: int) -> Round:
        """Let a round that is under way take labels up to this number.

        Raises:
            DataError: If no such round is under way.
        """
        with self.database.write() as connection:
            return history.extend(connection, number, upto)

    def finish_round(self, number: int, figures: Mapping[str, Any]) -> Round:
        """End a round with what was measured.

        Raises:
            DataError: If no such round is under way.
        """
        with self.database.write() as connection:
            return history.finish(connection, number, figures, self._clock())

    def rounds(self) -> list[Round]:
        """All rounds, the first first."""
        with self.database.read() as connection:
            query = sa.select(schema.rounds).order_by(schema.rounds.c.number)
            return [rows.round_record(row) for row in connection.execute(query)]

    def register_policy(self, policy: PolicyVersion) -> None:
        """Make a policy version known; a server that shows this policy takes it up.

        Raises:
            DataError: If the version is registered with another folder.
        """
        with self.database.write() as connection:
            history.add_policy(connection, policy, self._clock())

    def policies(self, name: str | None = None) -> list[PolicyVersion]:
        """Policy versions in the order of their registration."""
        with self.database.read() as connection:
            return history.policy_versions(connection, name)


def _has_item(connection: sa.Connection, item_id: str) -> bool:
    return connection.execute(sa.select(schema.items.c.id).where(schema.items.c.id == item_id)).first() is not None


_holds = sa.exists().where(schema.leases.c.rater == schema.raters.c.name).label("holds")
_RATER = sa.select(schema.raters, _holds).where(schema.raters.c.name == sa.bindparam("of_name"))
_NAMES = ("role", "type", "id", "tool_call_id", "name")
"""Fields of a message that hold no text of anybody's."""
_SWEEP_SECONDS = 60.0
_MANY = 2000
"""Open items from which on counting them anew for each request costs more than the exact number is worth."""
_COUNT_SECONDS = 1.0
_PRIORITIES = 200
_PAUSE_SECONDS = 0.002
"""Between chunks: without it, who has the interpreter gets the lock back, and the others may wait for all chunks."""
_SET_PRIORITY = (
    schema.items.update().where(schema.items.c.id == sa.bindparam("of_id")).values(priority=sa.bindparam("to"))
)


def _register(
    connection: sa.Connection, name: str, now: float, note: str = "", *, refuse: bool = True
) -> tuple[int, bool]:
    """Make a rater known, where they are not; how many items they have dealt with, and whether they hold a lease.

    Raises:
        DataError: If the name is unusable, or the rater is not active and that matters.
    """
    check_rater(name)
    row = connection.execute(_RATER, {"of_name": name}).first()
    if row is None:
        fields = {"name": name, "active": True, "created": now, "note": note, "labelled": 0, "skipped": 0}
        connection.execute(schema.raters.insert().values(fields))
        return 0, False
    if refuse and not row.active:
        raise DataError(f"the rater {name!r} is not active")
    return row.labelled + row.skipped, bool(row.holds)
