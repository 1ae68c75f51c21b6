"""Columns of many trajectories as numpy arrays, without a Python object per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from textenv.errors import DataError


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths behind one another.

    Attributes:
        values: All rows' entries, shape ``(N,)``.
        offsets: Where each row begins, and the end, int64, shape ``(n + 1,)``.
        known: False where the row is None (which is not the same as empty), shape ``(n,)``.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]
    known: NDArray[np.bool_]

    @classmethod
    def from_rows(cls, rows: Sequence[Any]) -> Ragged:
        """Pack arrays; None stands for an unknown row."""
        arrays = [np.zeros(0) if row is None else np.asarray(row) for row in rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        known = np.array([row is not None for row in rows], bool)
        filled = [array for array in arrays if len(array)]
        return cls(np.concatenate(filled) if filled else np.zeros(0), offsets, known)

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, row: int) -> NDArray[Any] | None:
        """A view of one row, None where it is not known."""
        return self.values[self.offsets[row] : self.offsets[row + 1]] if self.known[row] else None

    def take(self, rows: NDArray[np.bool_]) -> Ragged:
        """Only the rows where ``rows``, shape ``(n,)``, is True."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return Ragged(self.values[np.repeat(rows, self.lengths)], offsets, self.known[rows])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Entries of each row, shape ``(n,)``."""
        return np.diff(self.offsets)

    @property
    def row_of(self) -> NDArray[np.int64]:
        """Row that each entry belongs to, shape ``(N,)``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def sums(self) -> NDArray[np.float64]:
        """Sum of each row in float64, NaN where the row is not known, shape ``(n,)``."""
        totals = np.bincount(self.row_of, weights=self.values.astype(np.float64), minlength=len(self))
        return np.where(self.known, totals, np.nan)

    def padded(self, fill: float = 0) -> NDArray[Any]:
        """Right-padded rows, shape ``(n, longest)``."""
        lengths = self.lengths
        out = np.full((len(self), int(lengths.max(initial=0))), fill, self.values.dtype)
        out[np.arange(out.shape[1]) < lengths[:, None]] = self.values
        return out


class Columns(Mapping[str, Any]):
    """Some columns of some trajectories.

    Args:
        arrays: By name: :class:`Ragged` for per-token fields; arrays of shape ``(n,)`` for the others, in which None is
            NaN for numbers and None for everything else.
        count: Number of trajectories.
    """

    def __init__(self, arrays: dict[str, Any], count: int) -> None:
        self._arrays = arrays
        self.count = count

    @classmethod
    def from_arrow(cls, table: pa.Table, names: Sequence[str]) -> Columns:
        """Columns of a table; those of the behaviour policy need ``logprobs`` and ``behaviour_is_policy`` in it."""
        arrays: dict[str, Any] = {}
        for name in names:
            column = table.column(name)
            arrays[name] = _ragged(column) if pa.types.is_list(column.type) else _array(column)
        if "behaviour_logprobs" in arrays:
            same = table.column("behaviour_is_policy").fill_null(False).to_numpy().astype(bool)
            arrays["behaviour_logprobs"] = _filled(
                arrays["behaviour_logprobs"], arrays.get("logprobs") or _ragged(table.column("logprobs")), same
            )
        return cls(arrays, table.num_rows)

    def __getitem__(self, name: str) -> Any:
        if name not in self._arrays:
            raise DataError(f"the column `{name}` was not loaded; there are {', '.join(self._arrays)}")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self, rows: NDArray[np.bool_]) -> Columns:
        """Only the trajectories where ``rows``, shape ``(n,)``, is True."""
        taken = {name: x.take(rows) if isinstance(x, Ragged) else x[rows] for name, x in self._arrays.items()}
        return Columns(taken, int(rows.sum()))

    def ragged(self, name: str) -> Ragged:
        """A per-token column.

        Raises:
            DataError: If it was not loaded or holds one entry per trajectory.
        """
        found = self[name]
        if not isinstance(found, Ragged):
            raise DataError(f"`{name}` has one entry per trajectory, not per token; use .array({name!r})")
        return found

    def array(self, name: str) -> NDArray[Any]:
        """A column with one entry per trajectory, shape ``(n,)``.

        Raises:
            DataError: If it was not loaded or is per token.
        """
        found = self[name]
        if isinstance(found, Ragged):
            raise DataError(f"`{name}` has one entry per token; use .ragged({name!r})")
        return found


def _ragged(column: pa.ChunkedArray) -> Ragged:
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = [pc.fill_null(pc.list_value_length(chunk), 0).to_numpy() for chunk in column.chunks]  # pyright: ignore[reportAttributeAccessIssue]
    known = [chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    offsets = np.zeros(len(column) + 1, np.int64)
    if not values:
        return Ragged(np.zeros(0), offsets, np.zeros(0, bool))
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return Ragged(np.concatenate(values), offsets, np.concatenate(known).astype(bool))


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and column.null_count):
        return column.cast(pa.float64()).to_numpy().astype(np.float64)
    if pa.types.is_integer(kind) or (pa.types.is_boolean(kind) and not column.null_count):
        return column.to_numpy()
    out = np.empty(len(column), object)
    out[:] = column.to_pylist()
    return out


def _filled(behaviour: Ragged, policy: Ragged, same: NDArray[np.bool_]) -> Ragged:
    """The behaviour's log-probs, with the policy's where both are the same."""
    if not same.any():
        return behaviour
    if same.all():
        return policy
    lengths = np.where(same, policy.lengths, behaviour.lengths)
    offsets = np.zeros(len(same) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    values = np.empty(offsets[-1], np.float32)
    from_policy = np.repeat(same, lengths)
    values[from_policy] = policy.values[np.repeat(same, policy.lengths)]
    values[~from_policy] = behaviour.values[np.repeat(~same, behaviour.lengths)]
    return Ragged(values, offsets, behaviour.known | same)
