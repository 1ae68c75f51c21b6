"""``TrajectoryStore``: a folder of Parquet files that any number of writers append to and any number of readers read.

Each append writes one file under a temporary name, syncs it to disk, and gives it its name in one step; so after
``kill -9`` at any instant what was committed reads back and what was not is gone. Files are never changed.
Merging small ones (:meth:`TrajectoryStore.compact`) writes a new file that says which ones it replaces.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from textenv.checkpoints import write_atomic
from textenv.errors import DataError
from textenv.trajectories import schema
from textenv.trajectories.reader import FORMAT, REPLACES_KEY, STORE_FILE, Part, TrajectoryReader, check_store
from textenv.trajectory import Trajectory

_ROW_GROUP = 16_384
_TEMPORARY = ".writing-"
_PART = re.compile(r"part-(\d+)-[0-9a-f]+\.parquet")


class TrajectoryStore(TrajectoryReader):
    """A folder of trajectories; see the module for what it promises.

    Args:
        path: The folder; made where it is missing, unless it is only to be read.
        create: Make it where it is missing.

    Raises:
        DataError: If the folder is no store or belongs to a newer textenv.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        path = Path(path)
        if create and not (path / STORE_FILE).exists():
            _create(path)
        super().__init__(path)
        self._cleaned = False

    def append(self, trajectories: Sequence[Trajectory]) -> list[str]:
        """Commit trajectories: all of them, or none if anything goes wrong.

        Args:
            trajectories: Those without a ``traj_id`` are given one when they are committed.

        Returns:
            Their ids.

        Raises:
            DataError: If a trajectory is inconsistent, or its ``traj_id`` stands in the store or among the others
                already; the message names it and the field.
        """
        if not trajectories:
            return []
        for number, trajectory in enumerate(trajectories):
            schema.check(trajectory, f"trajectory {number}")
        held = self._held(trajectories)
        if held:
            raise DataError(
                f"trajectory {held[0]}: the store {self.path} holds `traj_id` {trajectories[held[0]].traj_id!r} "
                "already; leave it out, or set the id to None to store a copy"
            )
        return self._append(trajectories, self._new_name())

    def _append(self, trajectories: Sequence[Trajectory], name: str) -> list[str]:
        """Commit checked trajectories as the file ``name``; ids stay as they are where the file does not appear."""
        if not trajectories:
            return []
        _check_distinct(trajectories)
        stem = Path(name).stem.removeprefix("part-")
        unnamed = [(row, trajectory) for row, trajectory in enumerate(trajectories) if trajectory.traj_id is None]
        try:
            for row, trajectory in unnamed:
                trajectory.traj_id = f"{stem}-{row}"
            self._commit(schema.to_table(trajectories), name)
        finally:
            if not (self.path / name).exists():
                for _, trajectory in unnamed:
                    trajectory.traj_id = None
        return [trajectory.traj_id for trajectory in trajectories if trajectory.traj_id is not None]

    def _new_name(self) -> str:
        """Name of the file after the last one."""
        check_store(self.path)
        if not self._cleaned:
            self.clean()
        number = 1 + max((_number(path.name) for path in self.path.glob("part-*.parquet")), default=0)
        return f"part-{number:08d}-{secrets.token_hex(5)}.parquet"

    def _held(self, trajectories: Sequence[Trajectory]) -> list[int]:
        """Numbers of the trajectories whose ids stand in the store already."""
        named = {t.traj_id for t in trajectories if t.traj_id is not None}
        parts = self.parts() if named else []
        if not parts:
            return []
        wanted = pc.field("traj_id").isin(sorted(named))
        found = self._reading(lambda: self._dataset(parts).to_table(columns=["traj_id"], filter=wanted))
        known = set(found.column("traj_id").to_pylist())
        return [number for number, t in enumerate(trajectories) if t.traj_id is not None and t.traj_id in known]

    def writer(self, *, rows: int = 1024) -> TrajectoryWriter:
        """A context manager that gathers trajectories and appends them in larger files.

        Args:
            rows: How many are gathered before they are committed; what was not is lost by a kill.
        """
        return TrajectoryWriter(self, rows)

    def clean(self) -> int:
        """Remove what killed writers left behind; files that are being written stay.

        Returns:
            Number of removed files.
        """
        self._cleaned, removed = True, 0
        for path in self.path.glob(f"{_TEMPORARY}*"):
            try:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    removed += 1
            except (BlockingIOError, FileNotFoundError):
                continue  # somebody is writing it, or has just finished
        live = {part.path for part in self.parts()}
        for part in self._seen.values():
            if part.path not in live and part.path.exists():
                part.path.unlink(missing_ok=True)
                removed += 1
        return removed

    def compact(self, *, rows: int = 65_536) -> int:
        """Merge neighbouring small files into files of about ``rows`` trajectories; order and ids stay.

        Readers that are iterating meanwhile are told to read again. One process at a time does it.

        Returns:
            Number of files that were merged.

        Raises:
            DataError: If another process is at it.
        """
        with open(self.path / ".compact.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{self.path}: another process is merging files; try again later") from error
            merged = 0
            self.clean()  # what a killed merge left must not be merged once more
            for group in _groups(self.parts(), rows):
                names = [part.path.name for part in group]
                earlier = frozenset[str]().union(*(part.replaces for part in group))
                table = pa.Table.from_batches(self._reading(lambda g=group: self._dataset(g).to_table().to_batches()))
                table = table.replace_schema_metadata(
                    {**(schema.SCHEMA.metadata or {}), REPLACES_KEY: json.dumps([*names, *sorted(earlier)]).encode()}
                )
                self._commit(table, f"part-{_number(names[0]):08d}-{secrets.token_hex(5)}.parquet")
                for part in group:
                    part.path.unlink(missing_ok=True)
                merged += len(group)
        return merged

    def _commit(self, table: pa.Table, name: str) -> None:
        with _temporary(self.path) as (file, temporary):
            pq.write_table(
                table,
                file,
                row_group_size=_ROW_GROUP,
                compression="zstd",
                compression_level=3,
                use_dictionary=schema.DICTIONARIES,  # pyright: ignore[reportArgumentType] - it takes column names too
                column_encoding=schema.ENCODINGS,
                write_statistics=schema.STATISTICS,  # pyright: ignore[reportArgumentType]
                write_page_checksum=True,
            )
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, self.path / name)
        _sync_folder(self.path)


class TrajectoryWriter:
    """Gathers trajectories and appends them to a store; made by :meth:`TrajectoryStore.writer`.

    Args:
        store: Where they go.
        rows: How many are gathered before they are committed.
    """

    def __init__(self, store: TrajectoryStore, rows: int) -> None:
        self.store = store
        self.rows = rows
        self.pending: list[Trajectory] = []

    def add(self, trajectory: Trajectory) -> None:
        """Take a trajectory; commits where enough have come together.

        Raises:
            DataError: If it is inconsistent or was taken already; those taken before stay.
        """
        where = f"trajectory {len(self.pending)} since the last commit"
        schema.check(trajectory, where)
        schema.check_json(trajectory, where)
        for number, other in enumerate(self.pending):
            if other is trajectory or (trajectory.traj_id is not None and other.traj_id == trajectory.traj_id):
                raise DataError(f"{where}: the same trajectory as number {number} (`traj_id` {trajectory.traj_id!r})")
        self.pending.append(trajectory)
        if len(self.pending) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Commit what has been gathered; what could not be committed stays in ``pending``.

        Raises:
            DataError: If a trajectory was changed and is inconsistent now (nothing is committed), or the store holds
                its id already (the others are committed).
        """
        if not self.pending:
            return
        for number, trajectory in enumerate(self.pending):
            schema.check(trajectory, f"pending trajectory {number}")
        held = set(self.store._held(self.pending))
        fresh = [trajectory for number, trajectory in enumerate(self.pending) if number not in held]
        name = self.store._new_name()
        try:
            self.store._append(fresh, name)
        finally:
            if (self.store.path / name).exists():
                self.pending = [self.pending[number] for number in sorted(held)]
        if held:
            raise DataError(
                f"the store {self.store.path} holds `traj_id` {self.pending[0].traj_id!r} and {len(held) - 1} others "
                "already; take them out of `pending`, or set their ids to None to store copies"
            )

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits the rest, also where an error or Ctrl-C ends the block."""
        self.flush()


def _create(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: a trajectory store is a folder, this is a file; name another path")
    if path.exists() and any(not entry.name.startswith(f".{STORE_FILE}") for entry in path.iterdir()):
        if (path / STORE_FILE).exists():  # another writer was quicker
            return
        raise DataError(f"{path}: the folder holds other files and no {STORE_FILE}; name a new or an empty folder")
    path.mkdir(parents=True, exist_ok=True)
    described = {"format": FORMAT, "schema_version": schema.SCHEMA_VERSION}
    write_atomic(path / STORE_FILE, json.dumps(described) + "\n")
    _sync_folder(path)


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file under a temporary name, locked so that nobody takes it for left-over; gone unless it was renamed."""
    while True:
        path = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with open(path, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():  # cleaned away between making and locking it
                continue
            try:
                yield file, path
            finally:
                path.unlink(missing_ok=True)
            return


def _sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_distinct(trajectories: Sequence[Trajectory]) -> None:
    seen: dict[object, int] = {}
    for number, trajectory in enumerate(trajectories):
        for key in (id(trajectory), trajectory.traj_id):
            if key is not None and seen.setdefault(key, number) != number:
                raise DataError(
                    f"trajectory {number}: the same as trajectory {seen[key]} (`traj_id` {trajectory.traj_id!r}); "
                    "store it once, or a copy without an id"
                )


def _number(name: str) -> int:
    found = _PART.fullmatch(name)
    return int(found[1]) if found else 0


def _groups(parts: Sequence[Part], rows: int) -> Iterator[list[Part]]:
    """Runs of at least two neighbours whose trajectories together are at most ``rows``."""
    group: list[Part] = []
    for part in parts:
        if group and sum(p.rows for p in group) + part.rows > rows:
            if len(group) > 1:
                yield group
            group = []
        group.append(part)
    if len(group) > 1:
        yield group
