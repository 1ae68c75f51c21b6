"""Label files: JSON, JSONL, CSV and Parquet in, JSONL and Parquet out, Hugging Face datasets in and out.

Which columns make which label is in `reward_models.labels.columns`, how files are read in `textenv.records`. Every
mistake is a `DataError` that names file, line (row in Parquet and datasets, 0 the first), field, what was expected and
what came; a column that no label uses is a warning. The cells of a CSV file are texts: it can hold comparisons, not
ratings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.labels.columns import KNOWN_COLUMNS, Render, labels_of_row, row_of_label
from reward_models.labels.kinds import Label
from textenv.answers import Chat
from textenv.errors import DataError, MissingDependencyError
from textenv.records import Row, rows_of, write_rows


def read_labels(
    source: str | Path | Iterable[Mapping[str, Any]],
    *,
    ignore_columns: Sequence[str] = (),
    render: Render = Chat,
) -> list[Label]:
    """The labels of a file or a dataset; kinds may be mixed.

    Args:
        source: Path of a file or folder (see :func:`textenv.records.read_rows`), a Hugging Face dataset (one split), a
            data frame, or any rows.
        ignore_columns: Columns to pass over without a warning.
        render: Makes a text of a list of chat messages; the default keeps the messages (:class:`textenv.answers.Chat`).

    Raises:
        DataError: If the file is missing, unreadable, empty or malformed.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    name = str(source) if isinstance(source, (str, Path)) else "dataset"
    return _labels(rows_of(source), name, ignore_columns, render)


def write_labels(path: str | Path, labels: Sequence[Label]) -> None:
    """Write labels into a ``.jsonl`` or ``.parquet`` file that `read_labels` reads back as they were.

    Raises:
        DataError: If the path ends in something else, or there are no labels.
        MissingDependencyError: If a Parquet file is asked for and pyarrow is not installed.
    """
    if not labels:
        raise DataError(f"{path}: there are no labels to write.")
    write_rows(path, [row_of_label(label) for label in labels])


def to_dataset(labels: Sequence[Label]) -> Any:
    """Labels as a Hugging Face ``datasets.Dataset``, one column per field.

    Raises:
        MissingDependencyError: If ``datasets`` is not installed.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # no dependency of ours
    except ImportError as error:
        raise MissingDependencyError("Hugging Face datasets are needed: pip install datasets") from error
    rows = [row_of_label(label) for label in labels]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return datasets.Dataset.from_list([dict.fromkeys(names) | row for row in rows])


def _labels(rows: Iterable[Row], name: str, ignore_columns: Sequence[str], render: Render) -> list[Label]:
    labels: list[Label] = []
    used = KNOWN_COLUMNS | set(ignore_columns)
    for row in rows:
        where, columns = row.where, row.columns
        for column in columns:
            if column not in used:
                used.add(column)
                warnings.warn(
                    f"{where}: column `{column}` belongs to no label and is not used; `ignore_columns` silences this.",
                    stacklevel=3,
                )
        labels += labels_of_row(columns, where, render)
    if not labels:
        raise DataError(f"{name}: expected at least one label, the file is empty.")
    return labels
