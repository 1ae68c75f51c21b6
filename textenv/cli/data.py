"""What a command learns from: rated texts of people or of the built-in generator, tasks, conversations, labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from reward_models.labels import LabelSplits, SplitBy, read_label_file, split_labels, split_leaks
from textenv.cli.base import DataCommand, RunCommand
from textenv.cli.configs import AnsweringCommand, PPOCommand, PretrainCommand, RewardCommand, SFTCommand
from textenv.datasets import Demonstration, RatedText, builtin_ratings, demonstrations, human_ratings
from textenv.errors import DataError
from textenv.tasks import Conversation, Task, load_tasks
from textenv.tasks.files import read_conversations


@dataclass(frozen=True)
class RatedData:
    """All that a run learns from.

    Attributes:
        kind: ``human`` or ``builtin``.
        texts: Every rated text, all domains and splits.
        seconds: What fetching or generating them took.
        tasks: Tasks to read or to learn from instead.
        conversations: Conversations to learn from instead.
        labels: Labels of a file instead.
        file: Its name.
        notes: What there is to say about reading it, a line each.
    """

    kind: Literal["human", "builtin"]
    texts: Sequence[RatedText]
    seconds: float = 0.0
    tasks: Sequence[Task] = ()
    conversations: Sequence[Conversation] = ()
    labels: LabelSplits | None = None
    file: str = ""
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What the data are, in a few words."""
        if self.labels is not None:
            return f"labels of {self.file}"
        if not self.tasks and not self.conversations:
            return self.kind
        named = [task.name for task in self.tasks]
        named += sorted({conversation.task for conversation in self.conversations})
        return f"tasks: {', '.join(named)}"

    def by_domain(self, split: str) -> dict[str, list[str]]:
        """Texts of a split, per domain."""
        grouped: dict[str, list[str]] = {}
        for rated in self.texts:
            if rated.split == split:
                grouped.setdefault(rated.domain, []).append(rated.text)
        return grouped

    def rated(self, split: str, domains: Sequence[str]) -> list[RatedText]:
        """Rated texts of a split and some domains.

        Raises:
            DataError: If there are none.
        """
        texts = [rated for rated in self.texts if rated.split == split and rated.domain in domains]
        if not texts:
            raise DataError(f"no rated texts of {', '.join(domains)} in the {split} split")
        return texts

    def demonstrations(self, split: str, domain: str | None = None) -> list[Demonstration]:
        """Demonstrations of a split, of one domain or of all.

        Raises:
            DataError: If there are none.
        """
        made = demonstrations(r for r in self.texts if r.split == split and domain in (None, r.domain))
        if not made:
            raise DataError(f"no demonstrations of {domain or 'any domain'} in the {split} split")
        return made


def load_data(kind: Literal["human", "builtin"], builtin_texts: int) -> RatedData:
    """Fetch (once) or generate the rated texts.

    Args:
        kind: Which.
        builtin_texts: How many to generate.

    Raises:
        DataError: If the human ratings can be neither found nor fetched; says what to do.
    """
    began = time.monotonic()
    texts = human_ratings() if kind == "human" else builtin_ratings(n=builtin_texts)
    return RatedData(kind, texts, time.monotonic() - began)


def data_of(config: RunCommand) -> RatedData:
    """What a command's configuration names.

    Raises:
        ConfigError: If something is named that does not exist.
        DataError: If data are malformed; names file, line, field and what was expected.
    """
    began = time.monotonic()
    if isinstance(config, RewardCommand) and config.labels:
        labels, notes = load_labels(config)
        return RatedData(config.data, (), labels=labels, file=Path(config.labels).name, notes=notes)
    sources = config.tasks if isinstance(config, (PretrainCommand, SFTCommand, PPOCommand, AnsweringCommand)) else []
    files = config.conversations if isinstance(config, SFTCommand) else []
    if sources or files:
        tasks = load_tasks(sources)
        told = [each for path in files for each in read_conversations(path, task=Path(path).stem)]
        return RatedData("human", (), time.monotonic() - began, tasks, told)
    assert isinstance(config, DataCommand)
    return load_data(config.data, config.builtin_texts)


def load_labels(config: RewardCommand) -> tuple[LabelSplits, list[str]]:
    """The labels of the files, split where there is only one; figures are then measured on labels never trained on.

    With a validation file its labels serve for early stopping and for the figures.

    Returns:
        The labels, and what there is to say about them: what was recognised, skipped, and stands on both sides.

    Raises:
        ConfigError: If the form of the files is unknown.
        DataError: If a file is malformed, or one file holds too few labels to be split.
    """
    form = {"columns": config.columns, "attribute": config.attribute or None, "strict": config.strict}
    column = "" if config.split_by in get_args(SplitBy) else config.split_by
    read = read_label_file(config.labels, config.format or None, group_column=column, **form)
    if config.validation_labels:
        held_out = read_label_file(config.validation_labels, config.format or None, **form)
        splits = LabelSplits(read.labels, held_out.labels, held_out.labels)
        lines = [*read.lines, *held_out.lines]
    else:
        splits = split_labels(read.labels, cast("SplitBy", config.split_by) if read.groups is None else read.groups)
        lines = read.lines
    return splits, [*lines, *split_leaks(splits)]
