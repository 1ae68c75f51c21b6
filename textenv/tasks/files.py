"""Tasks from files and datasets: JSON, JSONL, CSV, Parquet, Hugging Face datasets, and lists of mappings.

Whatever is malformed is named with file, line (row where the format has no lines), field, what was expected and what
was found. Records are read again wherever they are gone through, so that a file larger than memory can be trained on.
Left out: downloads, which are the user's or :mod:`textenv.datasets`' business.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast, overload

from textenv.answers import Chat, as_messages, prompt_and_answers, read_cell
from textenv.datasets.rated_texts import SPLITS, Split
from textenv.errors import DataError, MissingDependencyError
from textenv.records import Row, read_rows, rows_of
from textenv.tasks.items import LABELERS, Conversation, Format, Item
from textenv.tasks.task import Task
from textenv.tasks.verifiers import Verifier, same_text


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a record.

    Attributes:
        question: A text; required.
        answer: A text, a number, or a list of them; where the field is missing altogether, items are texts to read.
        source: Who wrote the record; optional.
        split: ``train``, ``validation`` or ``test``; optional, the question decides where it is missing.
        statement: The same in running text; optional.
    """

    question: str = "question"
    answer: str = "answer"
    source: str = "source"
    split: str = "split"
    statement: str = "statement"


class RecordItems(Sequence[Item]):
    """Items of records that stay where they are: nothing but their number is kept in memory.

    Every record is checked once when this is made. Going through the items reads them again; ``items[i]`` reads up to
    that one.

    Args:
        read: Gives the records from the beginning, the same ones each time.
        fields: Names of the fields.
        split: Of all items; None reads the field or lets the question decide.

    Raises:
        DataError: If a record is malformed; names file, line, field and what was expected.
    """

    def __init__(self, read: Callable[[], Iterable[Row]], fields: Fields, split: Split | None) -> None:
        self._read, self._fields = read, fields
        self._split: Split | None = split
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return (_item(row.where, row.columns, self._fields, self._split) for row in self._read())

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            return list(islice(self, start, stop, step)) if step > 0 else list(self)[index]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return next(islice(self, index % self._count, None))


def read_task(
    path: str | Path,
    name: str,
    *,
    fields: Fields | None = None,
    format: Format | None = None,
    verifier: Verifier | None = same_text,
    split: Split | None = None,
) -> Task:
    """A task from a JSONL, JSON, CSV or Parquet file, which is read again wherever its items are gone through.

    Args:
        path: The file, or the folder of a dataset's split; see :func:`textenv.records.read_rows`.
        name: Name of the task.
        fields: Names of the fields.
        format: How items are asked and answered.
        verifier: Scores answers.
        split: Of all items, where the file is one split; None reads the field or lets the question decide.

    Raises:
        DataError: If the file is missing or malformed; names file, line, field and what was expected.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    found = RecordItems(lambda: _some(path), fields or Fields(), split)
    return Task(name, found, format or Format(), verifier)


def task_from_rows(
    rows: Any,
    name: str,
    *,
    fields: Fields | None = None,
    format: Format | None = None,
    verifier: Verifier | None = same_text,
    split: Split | None = None,
) -> Task:
    """A task from a Hugging Face dataset, or any sequence of mappings.

    Args:
        rows: A dataset, a data frame or a list of dictionaries: whatever can be gone through again.
        name: Name of the task.
        fields: Names of the columns.
        format: How items are asked and answered.
        verifier: Scores answers.
        split: Of all items; None reads the field or lets the question decide.

    Raises:
        DataError: If it is a collection of splits, or a row is malformed.
    """
    found = RecordItems(lambda: rows_of(rows, name), fields or Fields(), split)
    return Task(name, found, format or Format(), verifier)


def load_dataset_rows(name: str, split: str) -> Any:
    """A split of a Hugging Face dataset by the hub's name; folders are read by :func:`read_task`.

    Raises:
        MissingDependencyError: If ``datasets`` is not installed.
        DataError: If it cannot be loaded or has no such split.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingDependencyError(f'the dataset {name!r} needs datasets: pip install "textenv[datasets]"') from error
    try:
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the split {split!r} of the dataset {name!r}: {error}") from error


def read_conversations(path: str | Path, *, task: str = "") -> list[Conversation]:
    """Conversations to imitate.

    A record has ``messages``; or ``prompt`` with ``response`` or ``completion``; or ``chosen``, of which the rest of
    the row may say what was not preferred. Each may be a text or messages in every form that
    :mod:`textenv.answers.conversations` knows, system messages and turns of tools included. ``source`` is optional.

    Raises:
        DataError: If the file is missing or malformed; names file, line, field and what was expected.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    return [_conversation(row.where, row.columns, task) for row in _some(path)]


def _conversation(where: str, row: Mapping[str, Any], task: str) -> Conversation:
    source = _text(where, row, "source", optional=True) or LABELERS
    field = next((name for name in _ANSWERS if row.get(name) is not None), "response")
    place = f"{where}: field {field!r}"
    if field == "messages":
        told = read_cell(row[field], place)
        if not isinstance(told, Chat):
            raise DataError(f"{place}: expected a list of messages, got {_shown(told)}")
        messages = as_messages(told)
    else:
        if row.get(field) is None:
            _text(where, row, "prompt")  # its message says what the record has
            _text(where, row, field)
        prompt, (answer,) = prompt_and_answers(row.get("prompt"), {field: row[field]}, where)
        messages = [*as_messages(prompt), *as_messages(answer, "assistant")]
    # What the assistant says with an empty message is nothing to imitate.
    said = [each for each in messages if each.get("content") is not None or each.get("tool_calls")]
    try:
        return Conversation(tuple(said), source, task)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


_ANSWERS = ("messages", "chosen", "response", "completion")


def _some(path: str | Path) -> Iterator[Row]:
    """The rows of a file that has to have some."""
    empty = True
    for row in read_rows(path):
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: the file holds no records")


def _item(where: str, row: Mapping[str, Any], fields: Fields, split: Split | None) -> Item:
    chosen = split or _text(where, row, fields.split, optional=True)
    if chosen is not None and chosen not in SPLITS:
        raise DataError(f"{where}: field {fields.split!r}: expected one of {', '.join(SPLITS)}, got {chosen!r}")
    return Item(
        _text(where, row, fields.question) or "",
        _answers(where, row, fields.answer),
        cast("Split | None", chosen),
        _text(where, row, fields.source, optional=True) or LABELERS,
        _text(where, row, fields.statement, optional=True),
    )


def _answers(where: str, row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    given = row.get(field)
    if given is None:
        if field in row:
            raise DataError(f"{where}: field {field!r}: expected a text or a list of texts, got null")
        return ()
    values: Iterable[Any] = given if isinstance(given, (list, tuple)) else [given]
    found = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
            raise DataError(f"{where}: field {field!r}: expected a text or a list of texts, got {_shown(given)}")
        found.append(str(value))
    if not found:
        raise DataError(f"{where}: field {field!r}: expected at least one answer, got an empty list")
    return tuple(found)


def _text(where: str, row: Mapping[str, Any], field: str, *, optional: bool = False) -> str | None:
    value = row.get(field)
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value.strip():
        having = "" if field in row else f" (the record has {', '.join(map(str, row)) or 'no fields'})"
        raise DataError(f"{where}: field {field!r}: expected a text, got {_shown(value)}{having}")
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{str(value)[:40]!r} ({type(value).__name__})"
