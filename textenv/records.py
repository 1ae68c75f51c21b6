"""Rows of whatever a user has, each with the place where it stands: one reader for prompts, tasks, labels and suites.

Files (JSONL, JSON arrays, CSV, Parquet), folders that ``datasets`` saved, datasets, data frames and lists. Whatever
would be read in another way than it was meant is refused, with file and line: doubled keys, numbers too large to be
kept, characters that are none. What a row must hold is the caller's business.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textenv.checkpoints import write_atomic
from textenv.errors import DataError, MissingDependencyError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
"""What files may end with; all but the last also compressed, with ``.gz`` after it."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = re.compile(r"[ \t\r\n]*")
_LARGEST_DIGITS = 20  # of a whole number; 64 bits have as many


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        where: ``file:line``, or ``file: row number`` (from 0) where the format has no lines; begins errors.
        value: A mapping by column, or what else a line of JSON holds.
    """

    where: str
    value: Any

    @property
    def columns(self) -> Mapping[str, Any]:
        """The value as a mapping by column.

        Raises:
            DataError: If it is none.
        """
        if not isinstance(self.value, Mapping):
            raise DataError(f"{self.where}: expected an object with named columns, got {repr(self.value)[:80]}")
        return self.value


def read_rows(path: str | Path, *, suffix: str | None = None) -> Iterator[Row]:
    """The rows of a file, one after the other; blank lines are none.

    ``.jsonl`` and ``.ndjson`` hold one JSON value a line, ``.json`` an array of rows (or lines, too), ``.csv`` a header
    and texts (an empty field is None), ``.parquet`` columns; a folder is one split of a dataset that ``save_to_disk``
    wrote. Texts are UTF-8, or UTF-16 and UTF-32 where their first bytes tell.

    Args:
        path: The file or folder.
        suffix: Read as if it ended so; None goes by the name.

    Raises:
        DataError: If the file is missing, of another kind, or malformed: names file and line.
        MissingDependencyError: If a Parquet file or a folder is given and pyarrow is not installed.
    """
    path = Path(path)
    compressed = path.suffix == ".gz"
    suffix = suffix or (Path(path.stem).suffix if compressed else path.suffix)
    if path.is_dir():
        return _named_errors(path, _folder_rows(path))
    if suffix not in SUFFIXES or (compressed and suffix == ".parquet"):
        raise DataError(f"{path}: expected a file of {', '.join(SUFFIXES)}, got {suffix or 'no suffix'!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".json": _json_rows}
    return _named_errors(path, readers.get(suffix, _jsonl_rows)(path))


def rows_of(source: Any, name: str = "dataset") -> Iterator[Row]:
    """The rows of a file or folder, a Hugging Face dataset, a data frame (pandas, polars), or any collection.

    Args:
        source: A path (see :func:`read_rows`), or what holds the rows.
        name: What is not a file is called in messages, ``name: row 3``.

    Raises:
        DataError: As :func:`read_rows`, or if it is a collection of splits.
        MissingDependencyError: As :func:`read_rows`.
    """
    if isinstance(source, str | Path):
        return read_rows(source)
    if isinstance(source, Mapping):  # a DatasetDict is one
        splits = sorted(map(str, source))
        raise DataError(f"{name}: expected rows, got a collection of splits {splits}; choose one, [{splits[0]!r}]")
    return (Row(f"{name}: row {number}", row) for number, row in enumerate(each(source)))


def each(items: Any) -> Iterable[Any]:
    """The elements of a list, a dataset (whatever its format), or a data frame, one after the other.

    Raises:
        DataError: If a column of a data frame stands there twice.
    """
    if hasattr(items, "with_format"):  # a Hugging Face dataset
        return items.with_format(None)
    if hasattr(items, "to_dicts"):  # a polars data frame
        return items.to_dicts()
    if hasattr(items, "iloc"):  # pandas
        if hasattr(items, "columns") and not items.columns.is_unique:
            raise DataError(f"a column stands there more than once: {list(items.columns)}")
        rows = items.astype(object)
        # Lists are arrays there, also those inside others, and what is missing is not a number.
        return _listed(rows.to_dict("records") if hasattr(items, "columns") else rows.tolist())
    return items if hasattr(items, "__iter__") else (items[i] for i in range(len(items)))


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(entry) for name, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_listed(entry) for entry in value]
    missing = isinstance(value, float) and math.isnan(value)
    return None if missing or type(value).__name__ in ("NAType", "NaTType") else value


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]], *, suffix: str | None = None) -> None:
    """Write rows into a ``.jsonl``, ``.ndjson`` or ``.parquet`` file; in the last every row has every column.

    Args:
        path: The file.
        rows: What to write.
        suffix: Write as if it ended so; None goes by the name.

    Raises:
        DataError: If the path ends in something else.
        MissingDependencyError: If a Parquet file is asked for and pyarrow is not installed.
    """
    path = Path(path)
    suffix = suffix or path.suffix
    if suffix in (".jsonl", ".ndjson"):
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif suffix == ".parquet":
        pa, pq = _pyarrow(path)
        names = list(dict.fromkeys(name for row in rows for name in row))
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    else:
        raise DataError(f"{path}: expected a file of .jsonl or .parquet, got {suffix or 'no suffix'!r}")


def _named_errors(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows; what the file system or a damaged archive raises becomes a DataError."""
    try:
        yield from rows
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable gzip file: {error}") from error
    except OSError as error:  # gzip.BadGzipFile is one
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


# --- texts ------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines (from 1), their ends included; a carriage return alone ends none."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        start = file.read(4)
        encoding = json.detect_encoding(start)
        file.seek(0)
        if encoding not in ("utf-8", "utf-8-sig"):
            try:
                text = file.read().decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: not readable as {encoding}, which its first bytes say: {error}") from error
            yield from enumerate(io.StringIO(text.removeprefix("\ufeff"), newline="\n"), start=1)
            return
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: expected UTF-8, got byte {raw[error.start]:#x} at {error.start}; save the file "
                    "as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
                ) from error


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    names: list[str] | None = None
    try:
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            if not fields:
                continue
            if names is None:
                names = fields
                doubled = sorted({name for name in names if names.count(name) > 1})
                if doubled:
                    raise DataError(f"{where}: the column {doubled[0]!r} stands there more than once")
            elif len(fields) != len(names):
                raise DataError(
                    f"{where}: expected {len(names)} columns ({', '.join(names)}), got another number, {len(fields)}"
                )
            else:
                yield Row(where, {name: value or None for name, value in zip(names, fields, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a readable CSV file: {error}") from error


# --- JSON -------------------------------------------------------------------------------------------------------------


class _Refused(ValueError):
    """JSON that is valid and would not be kept as it is."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Refused(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there more than once")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _LARGEST_DIGITS:
        raise _Refused(f"the number {digits[:12]}… has {len(digits)} digits; write it as a text")
    return int(digits)


def _decimal(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"the number {digits[:24]} is too large")
    return value


def _constant(name: str) -> float:
    raise _Refused(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_decimal, parse_constant=_constant)


def _decode(text: str, start: int, where: str) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and where it ends.

    Raises:
        DataError: If there is none, or it cannot be kept.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: holds half a character, \\u{ord(error.object[error.start]):04x}") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply") from error
    except _Refused as error:
        raise DataError(f"{where}: {error}{_field_of(str(error), text, start)}") from error
    return value, end


def _field_of(problem: str, text: str, start: int) -> str:
    """The field that holds a constant that JSON has not, as far as the text before it tells."""
    constant, _, rest = problem.partition(" ")
    before = text[start : text.find(constant, start)].rsplit('":', 1)
    return f" (field {before[0].rsplit(chr(34), 1)[-1]!r})" if rest == "is no JSON number" and len(before) > 1 else ""


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        stripped = line.strip()
        if stripped:
            where = f"{path}:{number}"
            value, end = _decode(stripped, 0, where)
            if end < len(stripped):
                raise DataError(f"{where}: not valid JSON: more follows the value, at column {end + 1}")
            yield Row(where, value)


def _json_rows(path: Path) -> Iterator[Row]:
    """Elements of the array that the file holds; a file of several values is one of lines."""
    text = "".join(line for _, line in _lines(path))
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] != "[" or _is_lines(text, start):
        yield from _jsonl_rows(path) if _is_lines(text, start) else _single(text, start, path)
        return
    line, position = 1 + text.count("\n", 0, start), start
    while True:
        following = _skip(text, position + 1)  # behind the bracket or comma
        line += text.count("\n", position, following)
        where = f"{path}:{line}"
        if text[following : following + 1] == "]" and text[position] == "[":
            position = following
            break
        value, end = _decode(text, following, where)
        yield Row(where, value)
        position = _skip(text, end)
        line += text.count("\n", following, position)
        if text[position : position + 1] != ",":
            break
    if text[position : position + 1] != "]" or _skip(text, position + 1) < len(text):
        raise DataError(f"{path}:{line}: not valid JSON: expected ',' or the end of the array")


def _single(text: str, start: int, path: Path) -> Iterator[Row]:
    where = f"{path}:{1 + text.count(chr(10), 0, start)}"
    value, end = _decode(text, start, where)
    if _skip(text, end) < len(text):
        raise DataError(f"{where}: not valid JSON: more follows the value")
    yield Row(where, value)


def _is_lines(text: str, start: int) -> bool:
    """Whether the first line is a value of its own, and others follow."""
    end = text.find("\n", start)
    if end < 0 or not text[end:].strip():
        return False
    try:
        json.loads(text[start:end])
    except (ValueError, RecursionError):
        return False
    return True


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return position if found is None else found.end()


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path) -> Iterator[Row]:
    pa, pq = _pyarrow(path)
    try:
        with pq.ParquetFile(path) as file:
            yield from _batch_rows(path, file.iter_batches(batch_size=1024))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def _folder_rows(folder: Path) -> Iterator[Row]:
    """Rows of the Arrow streams that ``Dataset.save_to_disk`` writes; ``state.json`` names them in their order."""
    splits, state = folder / "dataset_dict.json", folder / "state.json"
    if splits.is_file():
        names = [str(name) for row in read_rows(splits) for name in row.columns.get("splits", ())]
        raise DataError(f"{folder}: expected one split of a dataset, got {', '.join(names)}; name {folder / names[0]}")
    if not state.is_file():
        raise DataError(f"{folder}: expected a file, or a folder that the `save_to_disk` of `datasets` wrote")
    pa, _ = _pyarrow(folder)
    listed = [entry["filename"] for row in read_rows(state) for entry in row.columns.get("_data_files", ())]
    try:
        yield from _batch_rows(folder, _stream_batches([folder / name for name in listed]))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: not a readable dataset: {error}") from error


def _stream_batches(files: Sequence[Path]) -> Iterator[Any]:
    import pyarrow as pa

    for file in files:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            yield from batches


def _batch_rows(path: Path, batches: Iterable[Any]) -> Iterator[Row]:
    rows = (row for batch in batches for row in batch.to_pylist())
    return (Row(f"{path}: row {number}", row) for number, row in enumerate(rows))


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    return pa, pq
