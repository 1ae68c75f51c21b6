"""``textenv labels export|import``: collected labels into files, and files of labels and items into the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from textenv.errors import ConfigError

ACTIONS = {
    "export": "write the store's labels into a file: JSONL, Parquet, Argilla's or Label Studio's JSON",
    "import": "bring such a file's items and labels into the store; what it knows already is left as it is",
}


@dataclass(frozen=True)
class LabelsOptions:
    """Options of ``textenv labels``.

    Attributes:
        db: The store that ``textenv serve`` writes, a file or a URL.
        format: Of the file; ``auto`` goes by its ending and content.
        after: Export only labels with a larger number.
    """

    db: str = "feedback.db"
    format: Literal["auto", "jsonl", "parquet", "argilla", "label-studio"] = "auto"
    after: int = 0


def export_file(file: str, options: LabelsOptions, console: Console) -> None:
    """``textenv labels export``.

    Raises:
        ConfigError: If there is no store.
        DataError: If there is nothing to export, or the format cannot be told.
    """
    from textenv.feedback.formats import export_labels
    from textenv.feedback.store import FeedbackStore

    if "://" not in options.db and not Path(options.db).is_file():
        raise ConfigError(f"`--db {options.db}`: there is no such file; `textenv serve` writes it")
    with FeedbackStore(options.db) as store:
        chosen = None if options.format == "auto" else options.format
        done = export_labels(store, file, format=chosen, after=options.after)
    console.print(
        f"{done.labels} labels and {done.demonstrations} demonstrations in {', '.join(map(str, done.files))}",
        soft_wrap=True,
    )


def import_file(file: str, options: LabelsOptions, console: Console) -> None:
    """``textenv labels import``.

    Raises:
        DataError: If the file is missing or malformed; nothing is saved then.
    """
    from textenv.feedback.formats import import_labels
    from textenv.feedback.store import FeedbackStore

    with FeedbackStore(options.db) as store:
        done = import_labels(store, file, format=None if options.format == "auto" else options.format)
    console.print(f"{done.items} new items, {done.labels} new labels, {done.known} labels known before")
