"""How trajectories stand in Parquet: the schema and its version, its checks, and the way there and back.

One row is one trajectory. Per-token fields are lists, ``sampling``, ``extra`` and ``provenance`` are JSON texts. Where
the distribution that was drawn from is the policy itself, ``behaviour_is_policy`` is true and ``behaviour_logprobs``
is null: the same numbers are not stored twice.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.trajectories.columns import Columns
from textenv.trajectory import Trajectory

SCHEMA_VERSION = 1
"""Rises when a reader of the version before could misread what is written now."""

VERSION_KEY = b"textenv.trajectories.schema_version"

FINISH_REASONS = ("eos", "stop", "length", "aborted")

TEXTS = ("prompt", "response", "finish_reason", "source", "traj_id", "prompt_id", "group_id", "parent_id")
TEXTS += ("reward_model", "policy", "policy_hash", "tokenizer_hash")
JSONS = ("sampling", "extra", "provenance")
INTEGERS = ("seed", "policy_version", "sample_index", "branch_position")
FLOATS = ("score", "last_value", "loss_weight", "log_weight")
FLAGS = ("terminated", "truncated", "behaviour_is_policy")
TOKEN_INTEGERS = ("prompt_ids", "token_ids", "turn_ids", "kept_counts")
TOKEN_FLOATS = ("behaviour_logprobs", "logprobs", "ref_logprobs", "values", "entropy", "rewards", "exact_kl")
TOKEN_FLOATS += ("advantages", "returns")
TOKEN_FLAGS = ("action_mask",)
PER_TOKEN = TOKEN_INTEGERS + TOKEN_FLOATS + TOKEN_FLAGS
SCALARS = TEXTS + JSONS + INTEGERS + FLOATS + FLAGS

_KINDS: dict[pa.DataType, tuple[str, ...]] = {
    pa.string(): TEXTS + JSONS,
    pa.int64(): INTEGERS,
    pa.float64(): FLOATS,
    pa.bool_(): FLAGS,
    pa.list_(pa.int32()): TOKEN_INTEGERS,
    pa.list_(pa.float32()): TOKEN_FLOATS,
    pa.list_(pa.bool_()): TOKEN_FLAGS,
    pa.map_(pa.string(), pa.float64()): ("score_parts",),
    pa.map_(pa.string(), pa.list_(pa.float32())): ("reward_parts",),
}

SCHEMA = pa.schema(
    [pa.field(name, kind) for kind, names in _KINDS.items() for name in names],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)

# Measured on 2,000 answers of a small model (42,946 tokens): bytes per token of ids 1.5 split by byte, 1.6 by
# dictionary, 1.7 by delta; of log-probs 3.3 split, 3.6 plain; repeated prompts cost next to nothing either way.
ENCODINGS: dict[str, str] = {
    **{f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in TOKEN_INTEGERS + TOKEN_FLOATS},
    **{name: "DELTA_BYTE_ARRAY" for name in ("response", "traj_id", "parent_id")},
    **{name: "DELTA_BINARY_PACKED" for name in INTEGERS},
}
DICTIONARIES: list[str] = [name for name in TEXTS + JSONS if name not in ENCODINGS]
STATISTICS: list[str] = [name for name in SCALARS if name not in (*JSONS, "prompt", "response")]
"""Columns whose smallest and largest values are noted, so that filters skip what cannot match."""

_MAY_BE_IMPOSSIBLE = ("logprobs", "ref_logprobs")  # −inf: drawn under a mask, or never by the reference
_LOGPROBS = ("behaviour_logprobs", "logprobs", "ref_logprobs")
_ROUNDING = 1e-3  # nats by which a log-prob of low precision may exceed 0


def check(trajectory: Trajectory, where: str) -> None:
    """Make sure that a trajectory says what it seems to say.

    Args:
        trajectory: The record.
        where: Names it in the message, e.g. ``"trajectory 3"``.

    Raises:
        DataError: If a per-token field has another length than the answer, a number is NaN, infinite or out of range,
            a text cannot be written as UTF-8, or the finish reason is unknown; the message names field and place.
    """
    if trajectory.finish_reason not in FINISH_REASONS:
        raise DataError(
            f"{where}: `finish_reason` must be one of {', '.join(FINISH_REASONS)}, got {trajectory.finish_reason!r}"
        )
    for name in ("prompt_ids", *PER_TOKEN):
        array = getattr(trajectory, name)
        if array is None:
            continue
        array = np.asarray(array)
        if name != "prompt_ids" and array.shape != (len(trajectory),):
            raise DataError(f"{where}: `{name}` has shape {array.shape}, expected ({len(trajectory)},) as `token_ids`")
        if name in TOKEN_INTEGERS:
            _check_integers(array, name, where)
        elif name in TOKEN_FLOATS:
            _check_floats(array, name, where, unknown_allowed=name in ("behaviour_logprobs", "logprobs"))
    for name, array in (trajectory.reward_parts or {}).items():
        _check_text(name, "reward_parts", where)
        if np.shape(array) != (len(trajectory),):
            raise DataError(f"{where}: `reward_parts[{name!r}]` has shape {np.shape(array)}, expected as `token_ids`")
        _check_floats(np.asarray(array), f"reward_parts[{name!r}]", where, unknown_allowed=False)
    _check_scalars(trajectory, where)


def check_json(trajectory: Trajectory, where: str) -> None:
    """Make sure that what is stored as JSON can be; :func:`to_table` does so too.

    Raises:
        DataError: If it cannot; the message names the field.
    """
    for name in JSONS:
        _as_json(getattr(trajectory, name), name, where)


def _check_scalars(trajectory: Trajectory, where: str) -> None:
    for name in TEXTS:
        _check_text(getattr(trajectory, name), name, where)
    for name in INTEGERS:
        value = getattr(trajectory, name)
        if value is not None and not -(2**63) <= value < 2**63:
            raise DataError(f"{where}: `{name}` is {value}, which does not fit into 64 bits")
    numbers = {name: getattr(trajectory, name) for name in FLOATS}
    for name, value in (trajectory.score_parts or {}).items():
        _check_text(name, "score_parts", where)
        numbers[f"score_parts[{name!r}]"] = value
    for name, value in numbers.items():
        weightless = name == "log_weight" and value == -np.inf
        if value is not None and not np.isfinite(value) and not weightless:
            raise DataError(f"{where}: `{name}` is {value}; leave it None where it is not known")


def _check_text(value: Any, name: str, where: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise DataError(f"{where}: `{name}` must be a text, got {type(value).__name__} {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: `{name}` holds half a surrogate pair, {value[error.start]!r}, at character {error.start}, which "
            "is no text; decode bytes with errors='replace'"
        ) from error


def _check_integers(array: NDArray[Any], name: str, where: str) -> None:
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{where}: `{name}` must hold integers, got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise DataError(f"{where}: `{name}` must lie in 0 … 2³¹−1, got {array.min()} … {array.max()}")


def _check_floats(array: NDArray[Any], name: str, where: str, *, unknown_allowed: bool) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        if unknown_allowed and np.isnan(array).all():
            return
        allowed = finite | (np.isneginf(array) if name in _MAY_BE_IMPOSSIBLE else False)
        if not allowed.all():
            token = int(np.flatnonzero(~allowed)[0])
            raise DataError(
                f"{where}: `{name}` is {array[token]} at answer token {token}; it must be finite (NaN throughout means "
                "not known)"
                if unknown_allowed
                else f"{where}: `{name}` is {array[token]} at answer token {token}; leave the field None where it is "
                "not known"
            )
    if name in _LOGPROBS and array.size and array.max() > _ROUNDING:
        raise DataError(f"{where}: `{name}` holds {array.max()}, and log-probabilities are at most 0")


# --- to Arrow ---------------------------------------------------------------------------------------------------------


def to_table(trajectories: Sequence[Trajectory]) -> pa.Table:
    """A table of checked trajectories.

    Raises:
        DataError: If a field that is stored as JSON cannot be.
    """
    plain = [_drawn_from_the_policy(t) for t in trajectories]
    arrays: list[pa.Array] = []
    for entry in SCHEMA:
        name = entry.name
        if name == "behaviour_is_policy":
            arrays.append(pa.array(plain, pa.bool_()))
        elif name in JSONS:
            texts = [_as_json(getattr(t, name), name, f"trajectory {i}") for i, t in enumerate(trajectories)]
            arrays.append(pa.array(texts, pa.string()))
        elif name in PER_TOKEN:
            rows = [getattr(t, name) for t in trajectories]
            if name == "behaviour_logprobs":
                rows = [None if same else row for row, same in zip(rows, plain, strict=True)]
            arrays.append(_lists([_known(row) for row in rows], entry.type))
        elif name in ("score_parts", "reward_parts"):
            parts = [getattr(t, name) for t in trajectories]
            arrays.append(pa.array([None if p is None else list(p.items()) for p in parts], entry.type))
        else:
            arrays.append(pa.array([getattr(t, name) for t in trajectories], entry.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _drawn_from_the_policy(trajectory: Trajectory) -> bool:
    ours, theirs = np.asarray(trajectory.behaviour_logprobs), np.asarray(trajectory.logprobs)
    return bool(np.array_equal(ours.astype(np.float32), theirs.astype(np.float32))) and trajectory.knows_behaviour


def _known(row: Any) -> NDArray[Any] | None:
    """None for an array that says nothing: NaN throughout."""
    if row is None:
        return None
    row = np.asarray(row)
    return None if row.size and row.dtype.kind == "f" and np.isnan(row[0]) else row


def _lists(rows: Sequence[NDArray[Any] | None], kind: pa.ListType) -> pa.Array:
    lengths = np.array([0 if row is None else len(row) for row in rows])
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    dtype = kind.value_type.to_pandas_dtype()
    values = np.concatenate([row for row in rows if row is not None] or [np.zeros(0)]).astype(dtype)
    mask = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind, mask=mask)


def _as_json(value: dict[str, Any], name: str, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: `{name}` must be JSON-able: {error}; got {value!r}") from error
    _check_text(text, name, where)
    return text


# --- and back ---------------------------------------------------------------------------------------------------------


def to_trajectories(batch: pa.RecordBatch) -> list[Trajectory]:
    """The trajectories of a batch with all columns."""
    present = [name for name in SCHEMA.names if batch.column(name).null_count < batch.num_rows or not batch.num_rows]
    needed = list(dict.fromkeys([*present, "behaviour_logprobs", "logprobs"]))
    columns = Columns.from_arrow(pa.Table.from_batches([batch]), [n for n in needed if n in PER_TOKEN])
    fields = {name: _rows(columns, batch, name) for name in needed if name != "behaviour_is_policy"}
    for name in ("behaviour_logprobs", "logprobs"):
        fields[name] = [
            np.full(len(tokens), np.nan, np.float32) if row is None else row
            for row, tokens in zip(fields[name], fields["token_ids"], strict=True)
        ]
    names = list(fields)
    return [Trajectory(**dict(zip(names, values, strict=True))) for values in zip(*fields.values(), strict=True)]


def _rows(columns: Columns, batch: pa.RecordBatch, name: str) -> list[Any]:
    if name in PER_TOKEN:
        ragged = columns.ragged(name)
        values = ragged.values.astype(np.int64) if name in ("token_ids", "prompt_ids") else ragged.values
        bounds = ragged.offsets.tolist()
        rows = [values[start:end] for start, end in itertools.pairwise(bounds)]
        return rows if ragged.known.all() else [r if k else None for r, k in zip(rows, ragged.known, strict=True)]
    rows = batch.column(name).to_pylist()
    if name in JSONS:
        return _parsed(rows)
    if name == "score_parts":
        return [None if row is None else dict(row) for row in rows]
    if name == "reward_parts":
        return [None if row is None else {k: np.array(v, np.float32) for k, v in row} for row in rows]
    return rows


def _parsed(rows: list[str | None]) -> list[dict[str, Any]]:
    """A dictionary of its own for each JSON text; most texts are alike, so each is parsed once."""
    parsed: dict[str | None, tuple[dict[str, Any], bool]] = {}
    for text in set(rows):
        value = json.loads(text or "{}")
        parsed[text] = value, any(isinstance(entry, (dict, list)) for entry in value.values())
    return [copy.deepcopy(value) if nested else value.copy() for value, nested in (parsed[text] for text in rows)]
