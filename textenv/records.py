"""Rows of a user's file, each with the place where it stands: JSONL, JSON arrays, CSV and Parquet, one reader for all.

Whatever would be read in another way than it was meant is refused, with file and line: doubled keys, numbers too large
to be kept, characters that are none. What a row must hold is the caller's business.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file, one after the other; blank lines are none.

    ``.jsonl`` and ``.ndjson`` hold one JSON value a line, ``.json`` an array of rows (or lines, too), ``.csv`` a header
    and texts (an empty field is None), ``.parquet`` columns. Texts are UTF-8, or UTF-16 and UTF-32 where their first
    bytes tell.

    Raises:
        DataError: If the file is missing, of another kind, or malformed: names file and line.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    path = Path(path)
    compressed = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if compressed else path.suffix
    if suffix not in SUFFIXES or (compressed and suffix == ".parquet"):
        raise DataError(f"{path}: expected a file of {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".json": _json_rows}
    return _named_errors(path, readers.get(suffix, _jsonl_rows)(path))


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
        raise DataError(f"{where}: {error}") from error
    return value, end


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
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield Row(f"{path}: row {number}", row)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
