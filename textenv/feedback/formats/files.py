"""Exporting the store's labels into files, and importing files into the store.

Formats: ``jsonl`` and ``parquet`` (rows, see :mod:`textenv.feedback.formats.rows`), ``argilla`` and ``label-studio``
(JSON of those tools). Without a name the file's ending decides; ``.json`` is looked into.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from textenv.checkpoints import write_atomic
from textenv.errors import DataError
from textenv.feedback.formats.argilla import argilla_records, is_flat, parse_argilla
from textenv.feedback.formats.label_studio import label_studio_tasks, parse_label_studio
from textenv.feedback.formats.reading import Reading
from textenv.feedback.formats.rows import SCALE, demonstration_row, has_label, label_row, parse_row
from textenv.feedback.store import Entry, FeedbackStore, LabelledItem, Scale
from textenv.records import SUFFIXES, Row, read_rows, write_rows

Format = Literal["jsonl", "parquet", "argilla", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)
_TEXTS = ("prompt", "response", "chosen", "rejected", "completion")
RowReader = Callable[[Row], Iterable[Mapping[str, Any]]]
"""A row of labels in a form of its own, as rows that :mod:`textenv.feedback.formats.rows` has."""
_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        labels: Ratings, comparisons and rankings (with Argilla and Label Studio: all labels).
        demonstrations: Written answers; in rows they stand in a file of their own.
        files: The files.
        left_out: Comparisons of an answer with itself, which say nothing.
    """

    labels: int
    demonstrations: int
    files: tuple[Path, ...]
    left_out: int = 0


class Imported(NamedTuple):
    """What an import brought.

    Attributes:
        items: New items.
        labels: New labels.
        known: Labels that were in the store before.
        remarks: What was left out, assumed or not read, and how often.
    """

    items: int
    labels: int
    known: int
    remarks: Mapping[str, int] = {}


def export_labels(
    store: FeedbackStore, path: str | Path, *, format: Format | None = None, after: int = 0, upto: int | None = None
) -> Exported:
    """Write labels that stand (neither undone nor on gold questions) into a file.

    Rows hold labels only; demonstrations go into ``<name>.demonstrations.<ending>`` beside it.

    Args:
        store: Whose labels.
        path: The file.
        format: Its format; None goes by the ending.
        after: Only labels with a larger number.
        upto: Only labels up to this number; None: all.

    Raises:
        DataError: If the format cannot be told, or there are no labels.
        MissingDependencyError: If a Parquet file is asked for and pyarrow is not installed.
    """
    path = Path(path)
    format = format or _format_of(path, ())
    labelled = list(store.labels(after=after, upto=upto, include_gold=False, include_skipped=format == "label-studio"))
    if not labelled:
        raise DataError("there are no labels to export yet")
    if format in ("argilla", "label-studio"):
        made = argilla_records(labelled) if format == "argilla" else label_studio_tasks(labelled)
        write_atomic(path, json.dumps(made, ensure_ascii=False, indent=1) + "\n")
        written = sum(entry.item.kind == "demonstrate" for entry in labelled)
        return Exported(len(labelled) - written, written, (path,))
    return _export_rows(labelled, path, format)


def _export_rows(labelled: Sequence[LabelledItem], path: Path, format: Format) -> Exported:
    rows: list[dict[str, Any]] = []
    written: list[dict[str, Any]] = []
    for entry in labelled:
        row, demonstration = label_row(entry), demonstration_row(entry)
        rows += [row] if row else []
        written += [demonstration] if demonstration else []
    files = []
    for found, file in ((rows, path), (written, path.with_suffix(f".demonstrations{path.suffix}"))):
        if found:
            _write_rows(found, file, format)
            files.append(file)
    if not files:
        raise DataError("there are no labels to export: nothing but comparisons of an answer with itself")
    return Exported(len(rows), len(written), tuple(files), len(labelled) - len(rows) - len(written))


def _write_rows(rows: list[dict[str, Any]], file: Path, format: Format) -> None:
    if format == "parquet":
        # A column of objects of many shapes would get all their fields: as JSON it stays what it is.
        # A list of answers may hold texts and conversations, and a column has one type: messages stand there as JSON.
        rows = [row | {"provenance": _json(row["provenance"])} | _messages_as_json(row) for row in rows]
    write_rows(file, rows, suffix=f".{format}")


def _messages_as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: _json(row[name]) for name in _TEXTS if isinstance(row.get(name), list)}
    if "responses" in row:
        found["responses"] = [_json(each) if isinstance(each, list) else each for each in row["responses"]]
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def import_labels(
    store: FeedbackStore,
    path: str | Path,
    *,
    format: Format | None = None,
    scale: Scale | None = None,
    question: str = "",
    read: RowReader | None = None,
) -> Imported:
    """Bring a file's items and labels into the store; what is there already is left as it is.

    The whole file comes in, or nothing of it. Who said what about which answer is kept, whatever the order in which a
    row names them; the order in which they were shown is kept where the file tells it, and unknown where not.

    Args:
        store: Gets them.
        path: The file.
        format: Its format; None looks at the ending and, for ``.json``, into the file.
        scale: Of ratings that name none; None takes 1…5, and says so.
        question: The question (Argilla) or control (Label Studio) that counts, where several fit.
        read: Reads rows of labels in forms other than those of :mod:`textenv.feedback.formats.rows`.

    Raises:
        DataError: If the file is missing or malformed, or holds what the store does not: file, line (or record), field
            and what was expected.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    remarks: Counter[str] = Counter()
    brought = store.bring(_parse(path, format, Reading(scale, question, remarks), read))
    if brought.repeated:
        remarks["second opinions of a rater on the same item, kept as of `name (2)`"] = brought.repeated
    return Imported(*brought[:3], remarks=dict(remarks))


def _parse(path: Path, format: Format | None, how: Reading, read: RowReader | None) -> Iterator[Entry]:
    suffix = (
        f".{format}" if format in ("jsonl", "parquet") else ".json" if format and path.suffix not in SUFFIXES else None
    )
    rows = list(read_rows(path, suffix=suffix))
    format = format or _format_of(path, rows, read is not None)
    if format in ("argilla", "label-studio"):
        if not rows:
            raise DataError(f"{path}: expected a list with at least one record, got none")
        content = [row.value for row in rows]
        yield from (parse_argilla if format == "argilla" else parse_label_studio)(content, str(path), how)
        return
    for row in rows:
        elsewhere = read is not None and row.columns.get("provenance") is None and "ratings" not in row.columns
        if read is not None and elsewhere and has_label(row.columns):
            several = read(row)
        elif _same(row.columns):
            how.remarks["rows whose two answers are the same, skipped"] += 1
            continue
        else:
            several = [row.columns]
        for columns in several:
            entry = parse_row(columns, row.where, how.scale or SCALE)
            if any(said.extra.get("scale", True) is None for said in entry.said):
                how.assume_scale()
            yield entry


def _same(columns: Mapping[str, Any]) -> bool:
    pairs = (("chosen", "rejected"), ("response_a", "response_b"))
    return any(columns.get(a) is not None and columns[a] == columns.get(b) for a, b in pairs)


def _format_of(path: Path, rows: Sequence[Row], anything: bool = False) -> Format:
    """By what the first record holds, or by the ending; any rows will do where somebody reads them all."""
    ending = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    for row in rows[:1]:
        if is_flat(row.columns) or isinstance(row.columns.get("fields"), Mapping):
            return "argilla"
        if isinstance(row.columns.get("data"), Mapping):
            return "label-studio"
        if ending not in _ENDINGS and ("prompt" in row.columns or anything):
            return "jsonl"
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    raise DataError(f"{path}: cannot tell the format; say which of {', '.join(FORMATS)} it is")
