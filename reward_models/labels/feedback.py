"""Labels straight from the store in which people's feedback is collected (:mod:`textenv.feedback`), and into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.labels.columns import labels_of_row, row_of_label
from reward_models.labels.records import Label, StepLabels
from textenv.errors import DataError
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
    format: Format | None = None,
    scale: Scale | None = None,
    question: str = "",
) -> Imported:
    """Bring a file of labels into a store: whatever `read_labels` reads, and what :func:`import_labels` does besides.

    Several people's `ratings` and `rankings` without names become as many unnamed raters; labels of steps, means of
    several ratings and ratings between two steps have no place in a store and are refused.

    Args:
        store: Gets them.
        path: The file.
        format: As in :func:`textenv.feedback.formats.import_labels`.
        scale: Likewise.
        question: Likewise.

    Raises:
        DataError: If the file is malformed or holds what a store does not: with file and line; nothing is kept then.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    from textenv.feedback.formats import import_labels  # the store needs the extra `serve`

    return import_labels(store, path, format=format, scale=scale, question=question, read=_rows)


def _rows(row: Row) -> list[dict[str, Any]]:
    """A row of labels as rows that the store's formats have."""
    labels = labels_of_row(row.columns, row.where)
    if any(isinstance(label, StepLabels) for label in labels):
        raise DataError(f"{row.where}: labels of steps have no place in the store; train on the file itself")
    return [row_of_label(label) for label in labels]
