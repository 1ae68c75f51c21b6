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
        format: ``jsonl``, ``parquet``, ``argilla``, ``label-studio``, or the form of its rows, such as ``hh_rlhf``;
            ``auto`` goes by ending and content.
        attribute: Of several ratings per answer the one to take, where the form has several.
        strict: Refuse a file in which rows cannot be used; else they are counted.
        scale: Lowest and highest step of ratings whose rows name none, e.g. ``[0, 4]``.
        question: The question (Argilla) or control (Label Studio) that counts, where several fit.
    """

    file: str
    db: str = "feedback.db"
    format: str = "auto"
    attribute: str = ""
    strict: bool = False
    scale: tuple[int, int] | None = None
    question: str = ""


@dataclass(frozen=True)
class ExportOptions(Settings):
    """Options of ``textenv labels export``.

    Attributes:
        file: The file.
        db: The store that ``textenv serve`` writes, a file or a URL.
        format: Of the file; ``auto`` goes by its ending.
        after: Export only labels with a larger number.
    """

    file: str
    db: str = "feedback.db"
    format: Literal["auto", "jsonl", "parquet", "argilla", "label-studio"] = "auto"
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
    if done.left_out:
        console.print(f"{done.left_out} comparisons of an answer with itself are left out")


def import_file(options: ImportOptions, console: Console) -> None:
    """``textenv labels import``.

    Raises:
        DataError: If the file is missing or malformed; nothing is saved then.
    """
    from reward_models.labels import labels_into_store
    from textenv.feedback.store import FeedbackStore, Scale

    scale = None if options.scale is None else Scale(*options.scale, anchors={})
    chosen = None if options.format == "auto" else options.format
    with FeedbackStore(options.db) as store:
        done = labels_into_store(
            store,
            options.file,
            format=chosen,
            attribute=options.attribute or None,
            strict=options.strict,
            scale=scale,
            question=options.question,
        )
    console.print(f"{done.items} new items, {done.labels} new labels, {done.known} labels known before")
    for remark, count in done.remarks.items():
        console.print(f"{remark}: {count}")
