"""Reading trajectories from a store's folder: lazily, some columns, some rows, those that match a filter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from textenv.errors import ConfigError, DataError
from textenv.trajectories import schema
from textenv.trajectories.columns import Columns
from textenv.trajectory import Trajectory

if TYPE_CHECKING:
    from textenv.trajectories.estimators.importance import ImportanceWeights

STORE_FILE = "store.json"
FORMAT = "textenv.trajectories"
REPLACES_KEY = b"textenv.trajectories.replaces"

_BATCH_ROWS = 16_384


class Part(NamedTuple):
    """One committed Parquet file.

    Attributes:
        path: Where it is.
        rows: Trajectories in it.
        replaces: Names of parts that it was merged from.
    """

    path: Path
    rows: int
    replaces: frozenset[str]


class TrajectoryReader:
    """Some trajectories of a store, in the order in which they were committed; nothing is read before it is asked for.

    Every call looks at the folder anew, so it sees what writers have committed meanwhile; a running iteration keeps to
    what stood there when it began.

    Args:
        path: The store's folder.
        filter: Rows to keep; None keeps all.
        start: First of the kept rows.
        stop: End of the kept rows; None goes on to the last.

    Raises:
        DataError: If there is no store, or it was written by a newer textenv or by something else.
    """

    def __init__(
        self, path: str | Path, *, filter: pc.Expression | None = None, start: int = 0, stop: int | None = None
    ) -> None:
        self.path = Path(path)
        self._filter = filter
        self._start, self._stop = start, stop
        self._seen: dict[str, Part] = {}
        check_store(self.path)

    # --- which rows ---------------------------------------------------------------------------------------------------

    def where(self, condition: Mapping[str, Any] | pc.Expression) -> TrajectoryReader:
        """Only the trajectories that match; decided from the columns concerned, before anything else is read.

        Args:
            condition: Wanted values by field: one value, a list of values, a pair ``(low, high)`` of inclusive bounds
                (None leaves a side open), or None for "not known". Or any expression of ``pyarrow.compute``, such as
                ``pc.field("score") > 0.5``.

        Raises:
            ConfigError: If a field does not exist or is per token, or this is a slice already.
        """
        if (self._start, self._stop) != (0, None):
            raise ConfigError("filter first, then slice: store.where(...)[:100]")
        wanted = condition if isinstance(condition, pc.Expression) else _expression(condition)
        return TrajectoryReader(self.path, filter=wanted if self._filter is None else self._filter & wanted)

    def __len__(self) -> int:
        """Number of trajectories."""
        if self._filter is None:
            total = sum(part.rows for part in self.parts())
        else:
            total = self._reading(lambda: self._dataset(self.parts()).count_rows(filter=self._filter))
        return max(0, min(total, self._stop if self._stop is not None else total) - self._start)

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> TrajectoryReader: ...
    def __getitem__(self, index: int | slice) -> Trajectory | TrajectoryReader:
        """One trajectory, or a slice that is read when it is used.

        Raises:
            IndexError: If there is no such trajectory.
            ConfigError: If a slice has a step.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ConfigError(f"slices of a store have no step, got {step}; load a slice and step through that")
            bounds = self._start + start, self._start + max(start, stop)
            return TrajectoryReader(self.path, filter=self._filter, start=bounds[0], stop=bounds[1])
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self.path}: there is no trajectory {index}; there are {count}")
        return next(iter(self[index % count : index % count + 1]))

    # --- reading ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Trajectory]:
        """Trajectories one by one; about 16,000 are in memory at a time."""
        for batch in self._batches(schema.SCHEMA.names):
            yield from schema.to_trajectories(batch)

    def load(self) -> list[Trajectory]:
        """All of them at once."""
        return list(self)

    def columns(self, names: Sequence[str]) -> Columns:
        """Some columns as numpy arrays.

        Args:
            names: Fields of :class:`Trajectory`.

        Raises:
            ConfigError: If a field is not stored.
        """
        return self._columns(pa.Table.from_batches(self._batches(_needed(names)), _subset(_needed(names))), names)

    def batches(self, names: Sequence[str]) -> Iterator[Columns]:
        """Some columns, about 16,000 trajectories at a time, for what does not fit into memory.

        Args:
            names: Fields of :class:`Trajectory`.

        Raises:
            ConfigError: If a field is not stored.
        """
        for batch in self._batches(_needed(names)):
            yield self._columns(pa.Table.from_batches([batch]), names)

    def num_tokens(self) -> int:
        """Answer tokens of all trajectories together."""
        return sum(len(columns.ragged("token_ids").values) for columns in self.batches(["token_ids"]))

    def importance_weights(
        self, policy: Any, *, temperature: float = 1.0, support: Literal["refuse", "flag"] = "refuse"
    ) -> ImportanceWeights:
        """How probable another policy finds these answers; see :func:`textenv.trajectories.importance_weights`."""
        from textenv.trajectories.estimators.importance import importance_weights

        return importance_weights(self.load(), policy, temperature=temperature, support=support)

    # --- the folder ---------------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """The committed files in order, without those that were merged into others.

        Raises:
            DataError: If a file is damaged, of a newer version, or not a store's.
        """
        check_store(self.path)
        found = []
        for path in sorted(self.path.glob("*.parquet")):
            if path.name.startswith("."):
                continue
            if path.name not in self._seen:
                part = read_part(path)
                if part is None:
                    continue
                self._seen[path.name] = part
            found.append(self._seen[path.name])
        replaced = {name for part in found for name in part.replaces}
        return [part for part in found if part.path.name not in replaced]

    def _dataset(self, parts: Sequence[Part]) -> ds.Dataset:
        options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        return ds.dataset(
            [str(part.path) for part in parts],
            schema=schema.SCHEMA,
            format=ds.ParquetFileFormat(default_fragment_scan_options=options),
        )

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        parts, skip = self.parts(), self._start
        while parts and self._filter is None and skip >= parts[0].rows:
            skip -= parts.pop(0).rows
        left = None if self._stop is None else self._stop - self._start
        if not parts or left == 0:
            return
        few = left is not None and left <= _BATCH_ROWS
        scanner = self._reading(
            lambda: self._dataset(parts).scanner(
                columns=list(names),
                filter=self._filter,
                batch_size=_BATCH_ROWS,
                batch_readahead=1 if few else 4,
                fragment_readahead=1 if few else 4,
            )
        )
        batches = self._reading(lambda: iter(scanner.to_batches()))
        while (batch := self._reading(lambda: next(batches, None))) is not None:
            dropped = min(skip, batch.num_rows)
            skip -= dropped
            batch = batch.slice(dropped, left)
            if batch.num_rows:
                yield batch
            if left is not None:
                left -= batch.num_rows
                if left == 0:
                    return

    def _reading(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: files were merged or removed while being read; read again") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}: a file is damaged: {error}; move it out of the folder to read the others"
            ) from error

    def _columns(self, table: pa.Table, names: Sequence[str]) -> Columns:
        return Columns.from_arrow(table, names)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_store(path: Path) -> None:
    """Make sure that a folder is a store that this version can read.

    Raises:
        DataError: If it is not; the message says what it is and what to do.
    """
    file = path / STORE_FILE
    if not path.exists():
        raise DataError(f"{path}: there is no trajectory store; `textenv sample` or TrajectoryStore.append makes one")
    if not path.is_dir():
        raise DataError(f"{path}: a trajectory store is a folder, this is a file")
    if not file.exists():
        raise DataError(f"{path}: not a trajectory store: there is no {STORE_FILE} in it; name another folder")
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        kind, version = described["format"], int(described["schema_version"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not the description of a trajectory store: {error}; name another folder") from error
    if kind != FORMAT:
        raise DataError(f"{file}: the folder holds `{kind}`, not `{FORMAT}`; name another folder")
    _check_version(version, file)


def _check_version(version: int, path: Path) -> None:
    if version > schema.SCHEMA_VERSION:
        raise DataError(
            f"{path}: written with schema version {version} by a newer textenv; this one reads up to "
            f"{schema.SCHEMA_VERSION}: upgrade it (pip install --upgrade textenv)"
        )
    if version < 1:
        raise DataError(f"{path}: there is no schema version {version}; the file is damaged")


def read_part(path: Path) -> Part | None:
    """A file's footer; None where the file has just been merged away.

    Raises:
        DataError: If it is damaged, of a newer version, or not a store's.
    """
    try:
        footer = pq.read_metadata(path)
        found = footer.schema.to_arrow_schema()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file: {error}; move it out of the folder to read the others"
        ) from error
    metadata = found.metadata or {}
    if schema.VERSION_KEY not in metadata:
        raise DataError(f"{path}: no trajectory store wrote this file; move it out of the folder")
    _check_version(int(metadata[schema.VERSION_KEY]), path)
    for entry in found:
        place = schema.SCHEMA.get_field_index(entry.name)
        if place < 0 or not _same_type(schema.SCHEMA.field(place).type, entry.type):
            raise DataError(f"{path}: the column `{entry.name}` ({entry.type}) does not belong to a trajectory store")
    replaces = json.loads(metadata.get(REPLACES_KEY, b"[]"))
    return Part(path, footer.num_rows, frozenset(replaces))


def _same_type(ours: pa.DataType, theirs: pa.DataType) -> bool:
    """Whether types agree but for the names that Parquet gives to nested entries."""
    return ours.equals(theirs) or (pa.types.is_nested(ours) and ours.id == theirs.id)


def _needed(names: Sequence[str]) -> list[str]:
    """Columns to read for the asked-for ones."""
    unknown = [name for name in names if name not in schema.SCHEMA.names]
    if unknown or not names:
        raise ConfigError(
            f"a store has no column {unknown[0]!r}; there are {', '.join(schema.SCHEMA.names)}"
            if unknown
            else "`names` is empty; name at least one column"
        )
    extra = ["logprobs", "behaviour_is_policy"] if "behaviour_logprobs" in names else []
    return list(dict.fromkeys([*names, *extra]))


def _subset(names: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.SCHEMA.field(name) for name in names])


def _expression(condition: Mapping[str, Any]) -> pc.Expression:
    if not condition:
        raise ConfigError("`condition` is empty; give wanted values by field, such as {'finish_reason': 'eos'}")
    parts: list[pc.Expression] = []
    for name, wanted in condition.items():
        if name not in schema.SCALARS:
            kind = "is per token" if name in schema.PER_TOKEN else "does not exist"
            raise ConfigError(f"cannot filter by `{name}`: the field {kind}; there are {', '.join(schema.SCALARS)}")
        field = pc.field(name)
        if wanted is None:
            parts.append(field.is_null())
        elif isinstance(wanted, tuple):
            if len(wanted) != 2 or wanted == (None, None):
                raise ConfigError(f"bounds of `{name}` must be a pair (low, high), one of them may be None: {wanted!r}")
            low, high = wanted
            parts += ([] if low is None else [field >= low]) + ([] if high is None else [field <= high])
        elif isinstance(wanted, (list, set, frozenset, np.ndarray)):
            parts.append(field.isin(list(wanted)))
        else:
            parts.append(field == wanted)
    out = parts[0]
    for part in parts[1:]:
        out = out & part
    return out
