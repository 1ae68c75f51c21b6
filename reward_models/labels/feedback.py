"""Labels straight from the store in which people's feedback is collected (:mod:`textenv.feedback`), and into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.labels.column_map import LabelColumns
from reward_models.labels.columns import labels_of_row, row_of_label
from reward_models.labels.files import RowReader
from reward_models.labels.formats import FORMATS as FORMS
from reward_models.labels.kinds import Label, StepLabels
from textenv.errors import ConfigError, DataError
from textenv.records import Row

if TYPE_CHECKING:
    from textenv.feedback.formats.files import Format, Imported
    from textenv.feedback.store import FeedbackStore, Scale


def labels_from_store(
    store: FeedbackStore, *, after: int = 0, upto: int | None = None, include_gold: bool = False
) -> Iterator[Label]:
    """The ratings, comparisons and rankings of a store, one by one, oldest first.

    Skips, labels that were taken back and comparisons of equal texts are left out. A comparison's margin of 0…3 becomes
    0…1. Several people's labels of one thing share `item`.

    Args:
        store: Where the labels are.
        after: Only labels with a larger number, e.g. those since the last round.
        upto: Only labels up to this number; None: all.
        include_gold: Also labels of gold questions, whose answers are no policy's.
    """
    from textenv.feedback.formats.rows import label_row  # the store needs the extra `serve`

    for labelled in store.labels(after=after, upto=upto, include_gold=include_gold):
        row = label_row(labelled)
        if row is not None:
            yield from labels_of_row(row, f"label {labelled.label.id}")


def labels_into_store(
    store: FeedbackStore,
    path: str | Path,
    *,
    format: str | None = None,
    columns: LabelColumns | Mapping[str, Any] | None = None,
    attribute: str | Mapping[str, float] | None = None,
    strict: bool = False,
    scale: Scale | None = None,
    question: str = "",
) -> Imported:
    """Bring a file of labels into a store: whatever `read_labels` reads, and what :func:`import_labels` does besides.

    Several people's `ratings` and `rankings` without names become as many unnamed raters; labels of steps, means of
    several ratings and ratings between two steps have no place in a store and are refused.

    Args:
        store: Gets them.
        path: The file.
        format: As in :func:`textenv.feedback.formats.import_labels`, or a form of `read_labels`, such as ``hh_rlhf``.
        columns: As in `read_labels`.
        attribute: Likewise.
        strict: Likewise.
        scale: As in :func:`textenv.feedback.formats.import_labels`.
        question: Likewise.

    Returns:
        What came; its remarks say also how rows were read, and which could not be used.

    Raises:
        ConfigError: If the format is unknown.
        DataError: If the file is malformed or holds what a store does not: with file and line; nothing is kept then.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    from textenv.feedback.formats import FORMATS, import_labels  # the store needs the extra `serve`

    kind: Format | None = next((name for name in FORMATS if name == format), None)
    if format is not None and kind is None and format not in FORMS:
        raise ConfigError(f"`format` must be one of {', '.join((*FORMATS, *FORMS))}, got {format!r}")
    if columns is not None and not isinstance(columns, LabelColumns):
        columns = LabelColumns(**columns)
    reader = RowReader(None if kind else format, columns, attribute, strict)

    def rows(row: Row) -> list[dict[str, Any]]:
        labels = list(reader.labels(row))
        if any(isinstance(label, StepLabels) for label in labels):
            raise DataError(f"{row.where}: labels of steps have no place in the store; train on the file itself")
        return [row_of_label(label) for label in labels]

    done = import_labels(store, path, format=kind, scale=scale, question=question, read=rows)
    read_as = {f"rows read as {name}": count for name, count in reader.recognised.items() if name != "columns"}
    unused = {line: 1 for line in reader.unused_lines()}
    skipped = {f"skipped, {reason}": count for reason, count in reader.skipped.items()}
    return done._replace(remarks={**done.remarks, **read_as, **skipped, **unused})
