"""Labels straight from the store in which people's feedback is collected (:mod:`textenv.feedback`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reward_models.labels.columns import labels_of_row
from reward_models.labels.kinds import Label

if TYPE_CHECKING:
    from textenv.feedback.store import FeedbackStore


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
