"""Label files: JSON, JSONL, CSV and Parquet in, JSONL and Parquet out, Hugging Face datasets in and out.

How a row is read is told by its columns (`reward_models.labels.formats`, and the usual ones in `columns`), or by a map
of them (`column_map`); how files are read is in `textenv.records`. Rows that say nothing that could be used are
counted by reason. Every mistake is a `DataError` that names file, line (row in Parquet and datasets, 0 the first),
field, what was expected and what came; a column that no label uses is a warning.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reward_models.labels.column_map import LabelColumns
from reward_models.labels.columns import KNOWN_COLUMNS, Render, labels_of_row, row_of_label
from reward_models.labels.formats import FORMATS, LabelFormat, candidates, usual_rows
from reward_models.labels.kinds import Label
from textenv.answers import Chat
from textenv.errors import ConfigError, DataError, MissingDependencyError, UnusableRow
from textenv.records import Row, rows_of, write_rows

_REASONS = 8  # that are told one by one


class LabelFile(NamedTuple):
    """What a file of labels holds.

    Attributes:
        labels: The labels.
        groups: What stands in the column by which they are to be split, of each label; None where none was named.
        lines: What was recognised, what was skipped: a sentence each.
        skipped: How many labels could not be used, by reason.
    """

    labels: list[Label]
    groups: list[Hashable] | None
    lines: list[str]
    skipped: dict[str, int]


def read_labels(
    source: str | Path | Iterable[Mapping[str, Any]],
    format: str | None = None,
    *,
    columns: LabelColumns | Mapping[str, Any] | None = None,
    attribute: str | Mapping[str, float] | None = None,
    strict: bool = False,
    ignore_columns: Sequence[str] = (),
    render: Render = Chat,
) -> list[Label]:
    """The labels of a file or a dataset; kinds may be mixed.

    Args:
        source: Path of a file or folder (see :func:`textenv.records.read_rows`), a Hugging Face dataset (one split), a
            data frame, or any rows.
        format: Name of a form in `reward_models.labels.formats.FORMATS`, such as ``hh_rlhf``; None finds it out.
        columns: A map of the columns, in place of a form: a :class:`LabelColumns`, or its fields.
        attribute: Of a form with several ratings per answer the one to take, such as ``helpfulness``, ``mean``, or
            weights by name, whose sum is taken; None takes the form's usual one.
        strict: Refuse rows that cannot be used; else they are passed over, and a warning counts them by reason.
        ignore_columns: Columns to pass over without a warning.
        render: Makes a text of a list of chat messages; the default keeps the messages (:class:`textenv.answers.Chat`).

    Raises:
        DataError: If the file is missing, unreadable, empty or malformed, or holds no label that can be used.
        ConfigError: If the form or the attribute is unknown.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    read = read_label_file(
        source,
        format,
        columns=columns,
        attribute=attribute,
        strict=strict,
        ignore_columns=ignore_columns,
        render=render,
    )
    for line in read.lines[1:]:
        warnings.warn(line, stacklevel=2)
    return read.labels


def read_label_file(
    source: str | Path | Iterable[Mapping[str, Any]],
    format: str | None = None,
    *,
    columns: LabelColumns | Mapping[str, Any] | None = None,
    attribute: str | Mapping[str, float] | None = None,
    strict: bool = False,
    ignore_columns: Sequence[str] = (),
    render: Render = Chat,
    group_column: str = "",
) -> LabelFile:
    """As `read_labels`, with what there is to say about it.

    Args:
        source: As there.
        format: As there.
        columns: As there.
        attribute: As there.
        strict: As there.
        ignore_columns: As there.
        render: As there.
        group_column: A column whose values are wanted too; rows that share one belong together.

    Raises:
        DataError: As there, or if no row has the column of groups.
        ConfigError: As there.
        MissingDependencyError: As there.
    """
    name = Path(source).name if isinstance(source, (str, Path)) else "dataset"
    if columns is not None and not isinstance(columns, LabelColumns):
        columns = LabelColumns(**columns)
    reader = RowReader(format, columns or None, attribute, strict, {*ignore_columns, group_column}, render)
    labels: list[Label] = []
    groups: list[Hashable] = []
    rows, some_group = 0, False
    for row in rows_of(source):
        rows += 1
        before = len(labels)
        labels += reader.labels(row)
        if group_column:
            some_group = some_group or group_column in row.columns
            groups += [_hashable(row.columns.get(group_column))] * (len(labels) - before)
    if not rows:
        shown = source if isinstance(source, (str, Path)) else name
        raise DataError(f"{shown}: expected at least one label, the file is empty.")
    if not labels:
        raise DataError(f"{name}: none of {rows:,} rows can be used; {'; '.join(reader.skipped_lines())}")
    if group_column and not some_group:
        raise DataError(f"{name}: no row has the column {group_column!r}, by which it is to be split")
    reader.check_columns(name)
    lines = [reader.summary(name, rows, len(labels)), *reader.unused_lines()]
    lines += [f"{name}: {line}" for line in reader.skipped_lines()]
    return LabelFile(labels, groups if group_column else None, lines, dict(reader.skipped))


def write_labels(path: str | Path, labels: Sequence[Label]) -> None:
    """Write labels into a ``.jsonl`` or ``.parquet`` file that `read_labels` reads back as they were.

    Raises:
        DataError: If the path ends in something else, or there are no labels.
        MissingDependencyError: If a Parquet file is asked for and pyarrow is not installed.
    """
    if not labels:
        raise DataError(f"{path}: there are no labels to write.")
    rows = [row_of_label(label) for label in labels]
    write_rows(path, rows if Path(path).suffix != ".parquet" else _columnar(rows))


def to_dataset(labels: Sequence[Label]) -> Any:
    """Labels as a Hugging Face ``datasets.Dataset``, one column per field.

    Raises:
        MissingDependencyError: If ``datasets`` is not installed.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # no dependency of ours
    except ImportError as error:
        raise MissingDependencyError("Hugging Face datasets are needed: pip install datasets") from error
    rows = _columnar([row_of_label(label) for label in labels])
    names = list(dict.fromkeys(name for row in rows for name in row))
    return datasets.Dataset.from_list([dict.fromkeys(names) | row for row in rows])


def _columnar(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for a file in which a column has one type: messages as JSON, which is read back as messages."""
    return [
        {
            name: [_as_json_text(entry) for entry in value] if name == "responses" else _as_json_text(value)
            for name, value in row.items()
        }
        for row in rows
    ]


def _as_json_text(value: Any) -> Any:
    messages = isinstance(value, list) and value and isinstance(value[0], Mapping)
    return json.dumps(value, ensure_ascii=False) if messages else value


class RowReader:
    """Reads rows, and remembers what was recognised, not used, and skipped."""

    def __init__(
        self,
        format: str | None,
        columns: LabelColumns | None,
        attribute: str | Mapping[str, float] | None,
        strict: bool,
        ignored: Collection[str] = (),
        render: Render = Chat,
    ) -> None:
        if format is not None and format not in FORMATS:
            raise ConfigError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}; or give `columns`")
        if columns is not None and (format is not None or attribute is not None):
            raise ConfigError("`columns` say what is read; leave `format` and `attribute` out")
        self.format, self.columns, self.attribute = format, columns, attribute
        self.strict, self.ignored, self.render = strict, set(ignored), render
        self.recognised: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.unused: dict[str, str] = {}
        self.seen: set[str] = set()
        self._candidates: dict[tuple[str, ...], Sequence[str]] = {}
        self._maps: dict[str, tuple[LabelColumns | None, bool, str]] = {}

    def labels(self, row: Row) -> Iterator[Label]:
        """The labels of a row.

        Raises:
            DataError: If it is malformed, or strictly read and of no use.
        """
        cells = row.columns
        name, form, (columns, mean, _) = self._form(row.where, cells)
        self.recognised[name] += 1
        self._note_unused(row, columns, usual=columns is None and form.rows is None)
        try:
            for usual in usual_rows(form, columns, cells, row.where, self.seen, mean):
                try:
                    yield from labels_of_row(usual, row.where, self.render)
                except UnusableRow as unusable:
                    self._skip(unusable)
        except UnusableRow as unusable:
            self._skip(unusable)
        except DataError as error:
            raise _in_their_words(error, columns) from error

    def _form(
        self, where: str, cells: Mapping[str, Any]
    ) -> tuple[str, LabelFormat, tuple[LabelColumns | None, bool, str]]:
        if self.columns is not None:
            return "your columns", FORMATS["columns"], (self.columns, False, "")
        name = self.format
        if name is None:
            names = tuple(cells)
            if names not in self._candidates:
                self._candidates[names] = candidates(names)
            name = next(each for each in self._candidates[names] if FORMATS[each].fits(cells))
        elif not FORMATS[name].needs <= cells.keys():
            needed = ", ".join(sorted(FORMATS[name].needs))
            raise DataError(f"{where}: expected the columns of {name} ({needed}), got {', '.join(map(str, cells))}")
        if name not in self._maps:
            self._maps[name] = FORMATS[name].of(self.attribute, name)
        return name, FORMATS[name], self._maps[name]

    def _note_unused(self, row: Row, columns: LabelColumns | None, *, usual: bool) -> None:
        used = {part for path in columns.paths() for part in (path, path.split(".")[0])} if columns else KNOWN_COLUMNS
        if usual or columns is not None:
            for column in row.columns.keys() - used - self.ignored - self.unused.keys():
                self.unused[column] = row.where

    def _skip(self, unusable: UnusableRow) -> None:
        if self.strict:
            raise DataError(f"{unusable}; leave `strict` out to pass over such rows") from unusable
        self.skipped[unusable.reason] += 1
        self.first.setdefault(unusable.reason, unusable.where)

    def check_columns(self, name: str) -> None:
        """Make sure that the columns of a map are there, which rows may lack.

        Raises:
            DataError: If one is in no row.
        """
        missing = sorted(set(self.columns.paths()) - self.seen) if self.columns is not None else []
        if missing:
            raise DataError(f"{name}: the column {missing[0]!r} of `columns` stands in no row")

    def summary(self, name: str, rows: int, labels: int) -> str:
        """What was recognised, in a sentence."""
        shown = []
        for form, count in self.recognised.items():
            title = FORMATS[form].title if form in FORMATS and form != "columns" else ""
            choice = self._maps[form][2] if form in self._maps else ""
            note = FORMATS[form].note if form in FORMATS else ""
            about = "; ".join(part for part in (title, choice, note) if part)
            words = "the usual columns" if form == "columns" else form
            shown.append(
                words + (f" ({about})" if about else "") + (f" in {count:,} rows" if len(self.recognised) > 1 else "")
            )
        unused = f"; not used: {', '.join(sorted(map(str, self.unused)))}" if self.unused else ""
        return f"{name}: read as {', '.join(shown)}; {labels:,} labels of {rows:,} rows{unused}"

    def unused_lines(self) -> list[str]:
        """A warning of each column that nobody knows."""
        if self.recognised.keys() - {"columns"}:
            return []  # the form is known, and so is what it has besides
        return [
            f"{where}: column `{column}` belongs to no label and is not used; `ignore_columns` silences this."
            for column, where in self.unused.items()
        ]

    def skipped_lines(self) -> list[str]:
        """What could not be used, by reason."""
        told = [
            f"{count:,} skipped: {reason} (first at {self.first[reason]})"
            for reason, count in self.skipped.most_common(_REASONS)
        ]
        rest = sum(self.skipped.values()) - sum(count for _, count in self.skipped.most_common(_REASONS))
        return told + [f"{rest:,} skipped for {len(self.skipped) - _REASONS} other reasons"] * bool(rest)


def _in_their_words(error: DataError, columns: LabelColumns | None) -> DataError:
    """The error with the name that a field has in the file."""
    names = {"response": "answers", "response_a": "answers", "response_b": "answers", "labels": "step_labels"}
    names |= {"completions": "steps", "score": "rating"}

    def named(field: re.Match[str]) -> str:
        path = getattr(columns, names.get(field[1], field[1]), "") if columns is not None else ""
        if columns is not None and field[1] in ("score", "rating"):
            path = path or ", ".join(columns.attributes)
        return f"field `{path if isinstance(path, str) and path else field[1]}`"

    return DataError(re.sub(r"field `(\w+)`", named, str(error), count=1))


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)
