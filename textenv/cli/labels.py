"""``textenv labels export|import``: collected labels into files, and files of labels and items into the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from textenv.cli.base import check_db
from textenv.settings import NonNegativeInt, Settings


@dataclass(frozen=True)
class ImportOptions(Settings):
    """Options of ``textenv labels import``.

    Attributes:
        file: The file.
        db: The store that ``textenv serve`` writes, a file or a URL.
        format: Of the file; ``auto`` goes by its ending and content.
    """

    file: str
    db: str = "feedback.db"
    format: Literal["auto", "jsonl", "parquet", "argilla", "label-studio"] = "auto"


@dataclass(frozen=True)
class ExportOptions(ImportOptions):
    """Options of ``textenv labels export``.

    Attributes:
        after: Export only labels with a larger number.
    """

    after: NonNegativeInt = 0


def export_file(options: ExportOptions, console: Console) -> None:
    """``textenv labels export``.

    Raises:
        ConfigError: If there is no store.
        DataError: If there is nothing to export, or the format cannot be told.
    """
    from textenv.feedback.formats import export_labels
    from textenv.feedback.store import FeedbackStore

    check_db(options.db)
    with FeedbackStore(options.db) as store:
        chosen = None if options.format == "auto" else options.format
        done = export_labels(store, options.file, format=chosen, after=options.after)
    console.print(
        f"{done.labels} labels and {done.demonstrations} demonstrations in {', '.join(map(str, done.files))}",
        soft_wrap=True,
    )


def import_file(options: ImportOptions, console: Console) -> None:
    """``textenv labels import``.

    Raises:
        DataError: If the file is missing or malformed; nothing is saved then.
    """
    from textenv.feedback.formats import import_labels
    from textenv.feedback.store import FeedbackStore

    with FeedbackStore(options.db) as store:
        done = import_labels(store, options.file, format=None if options.format == "auto" else options.format)
    console.print(f"{done.items} new items, {done.labels} new labels, {done.known} labels known before")
