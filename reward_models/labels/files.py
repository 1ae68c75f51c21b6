"""Label files: JSONL and Parquet in and out, Hugging Face datasets in and out.

Which columns make which label is in `reward_models.labels.columns`. Every mistake is a `DataError` that names file,
line (row in Parquet and datasets, 0 the first), field, what was expected and what came; a column that no label uses
is a warning. Left out: CSV, whose cells have no types.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reward_models.labels.columns import KNOWN_COLUMNS, Render, labels_of_row, render_messages, row_of_label
from reward_models.labels.records import Label
from textenv.checkpoints import write_atomic
from textenv.errors import DataError, MissingDependencyError

_JSONL = (".jsonl", ".ndjson")


def read_labels(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    ignore_columns: Sequence[str] = (),
    render: Render = render_messages,
) -> list[Label]:
    """The labels of a file or a dataset; kinds may be mixed.

    Args:
        source: Path of a ``.jsonl`` or ``.parquet`` file, a Hugging Face dataset (one split), or any rows.
        ignore_columns: Columns to pass over without a warning.
        render: Makes a text of a list of chat messages.

    Raises:
        DataError: If the file is missing, unreadable, empty or malformed.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        return _labels(_rows_of_file(path), str(path), ignore_columns, render)
    if isinstance(source, Mapping):  # a DatasetDict is a dict
        names = sorted(str(name) for name in source)
        raise DataError(f"dataset: expected one split with rows, got several: {names}; give dataset[{names[0]!r}].")
    return _labels(
        ((f"dataset: row {number}", row) for number, row in enumerate(source)), "dataset", ignore_columns, render
    )


def write_labels(path: str | Path, labels: Sequence[Label]) -> None:
    """Write labels into a ``.jsonl`` or ``.parquet`` file that `read_labels` reads back as they were.

    Raises:
        DataError: If the path ends in something else, or there are no labels.
        MissingDependencyError: If a Parquet file is asked for and pyarrow is not installed.
    """
    path = Path(path)
    if not labels:
        raise DataError(f"{path}: there are no labels to write.")
    rows = [row_of_label(label) for label in labels]
    if path.suffix in _JSONL:
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pa, pq = _pyarrow(path)
        pq.write_table(pa.Table.from_pylist(_rectangular(rows)), path)
    else:
        _wrong_kind(path)


def to_dataset(labels: Sequence[Label]) -> Any:
    """Labels as a Hugging Face ``datasets.Dataset``, one column per field.

    Raises:
        MissingDependencyError: If ``datasets`` is not installed.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # no dependency of ours
    except ImportError as error:
        raise MissingDependencyError("Hugging Face datasets are needed: pip install datasets") from error
    return datasets.Dataset.from_list(_rectangular([row_of_label(label) for label in labels]))


def _labels(rows: Iterable[tuple[str, Any]], name: str, ignore_columns: Sequence[str], render: Render) -> list[Label]:
    labels: list[Label] = []
    used = KNOWN_COLUMNS | set(ignore_columns)
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: expected an object with named columns, got {repr(row)[:80]}.")
        for column in row:
            if column not in used:
                used.add(column)
                warnings.warn(
                    f"{where}: column `{column}` belongs to no label and is not used; `ignore_columns` silences this.",
                    stacklevel=3,
                )
        labels += labels_of_row(row, where, render)
    if not labels:
        raise DataError(f"{name}: expected at least one label, the file is empty.")
    return labels


def _rows_of_file(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such label file.")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix in _JSONL:
        return _jsonl_rows(path)
    _wrong_kind(path)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{where}: expected UTF-8, got byte 0x{raw[error.start]:02x} at position {error.start + 1}."
                ) from error
            if line.strip():
                yield where, _parse_line(line, where)


def _parse_line(line: str, where: str) -> Any:
    def no_constant(name: str) -> NoReturn:
        raise DataError(f"{where}: expected finite numbers, got {name}{_field_before(line, name)}.")

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise DataError(f"{where}: field `{twins[0]}`: expected once, got {names.count(twins[0])} times.")
        return dict(pairs)

    try:
        return json.loads(line, parse_constant=no_constant, object_pairs_hook=no_twins)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: expected one JSON object a line, got invalid JSON at column {error.colno}: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: expected one JSON object a line, got what Python cannot read: {error}.") from error


def _field_before(line: str, constant: str) -> str:
    """The name of the field that holds a constant, as far as the text before it tells."""
    before = line[: line.find(constant)].rsplit('":', 1)[0]
    return f" in field `{before.rsplit(chr(34), 1)[-1]}`" if '"' in before else ""


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    pa, pq = _pyarrow(path)
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    return ((f"{path}: row {number}", row) for number, row in enumerate(rows))


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    return pa, pq


def _rectangular(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row with every column that occurs, None where it has nothing to say."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def _wrong_kind(path: Path) -> NoReturn:
    raise DataError(f"{path}: label files are .jsonl or .parquet, not {path.suffix or 'without an ending'!r}.")
