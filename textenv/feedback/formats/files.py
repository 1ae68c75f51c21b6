"""Exporting the store's labels into files, and importing files into the store.

Formats: ``jsonl`` and ``parquet`` (rows, see :mod:`textenv.feedback.formats.rows`), ``argilla`` and ``label-studio``
(JSON of those tools). Without a name the file's ending decides; ``.json`` is looked into.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from textenv.checkpoints import write_atomic
from textenv.errors import DataError
from textenv.feedback.formats.argilla import argilla_records, parse_argilla
from textenv.feedback.formats.label_studio import label_studio_tasks, parse_label_studio
from textenv.feedback.formats.rows import demonstration_row, label_row, parse_row
from textenv.feedback.store import FeedbackStore, Item, Label, LabelledItem
from textenv.records import Row, read_rows, write_rows

Format = Literal["jsonl", "parquet", "argilla", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        labels: Ratings, comparisons and rankings (with Argilla and Label Studio: all labels).
        demonstrations: Written answers; in rows they stand in a file of their own.
        files: The files.
    """

    labels: int
    demonstrations: int
    files: tuple[Path, ...]


class Imported(NamedTuple):
    """What an import brought.

    Attributes:
        items: New items.
        labels: New labels.
        known: Labels that were in the store before.
    """

    items: int
    labels: int
    known: int


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


def _export_rows(labelled: Iterable[LabelledItem], path: Path, format: Format) -> Exported:
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
    return Exported(len(rows), len(written), tuple(files))


def _write_rows(rows: list[dict[str, Any]], file: Path, format: Format) -> None:
    if format == "parquet":
        # A column of objects of many shapes would get all their fields: as JSON it stays what it is.
        rows = [row | {"provenance": json.dumps(row["provenance"], ensure_ascii=False)} for row in rows]
    write_rows(file, rows, suffix=f".{format}")


def import_labels(store: FeedbackStore, path: str | Path, *, format: Format | None = None) -> Imported:
    """Bring a file's items and labels into the store; what is there already is left as it is.

    The whole file is read and checked before anything is saved.

    Args:
        store: Gets them.
        path: The file.
        format: Its format; None looks at the ending and, for ``.json``, into the file.

    Raises:
        DataError: If the file is missing or malformed: file, line (or record), field and what was expected.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    found = list(_parse(path, format))
    items = {item.id: item for item, _ in found}
    added = store.add_items(items.values())
    new = known = 0
    for _, labels in found:
        for label in labels:
            if store.save_label(label).new:
                new += 1
            else:
                known += 1
    return Imported(added, new, known)


def _parse(path: Path, format: Format | None) -> Iterator[tuple[Item, list[Label]]]:
    suffix = ".json" if format in ("argilla", "label-studio") else None if format is None else f".{format}"
    rows = list(read_rows(path, suffix=suffix))
    format = format or _format_of(path, rows)
    if format in ("argilla", "label-studio"):
        if not rows:
            raise DataError(f"{path}: expected a list with at least one record, got none")
        content = [row.value for row in rows]
        yield from (parse_argilla if format == "argilla" else parse_label_studio)(content, str(path))
        return
    for row in rows:
        item, label = parse_row(row.columns, row.where)
        yield item, [] if label is None else [label]


def _format_of(path: Path, rows: Sequence[Row]) -> Format:
    """By the ending, or by what the first record holds."""
    ending = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    for row in rows[:1]:
        if "fields" in row.columns:
            return "argilla"
        if "data" in row.columns:
            return "label-studio"
        if "prompt" in row.columns:
            return "jsonl"
    raise DataError(f"{path}: cannot tell the format; say which of {', '.join(FORMATS)} it is")
