"""Pre-training and fine-tuning on tasks and conversations: what ``textenv pretrain`` and ``textenv sft`` do with them.

Like :mod:`textenv.cli.stages`, each stage is a function that writes its folder and returns its summary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import policy_files
from agents.finetuning import SFTConfig
from agents.lora import merged
from agents.pretraining import PretrainConfig, pretrain_on_tasks
from textenv.cli.configs import PretrainCommand, SFTCommand
from textenv.cli.data import RatedData
from textenv.cli.stages import fine_tune, save_lm
from textenv.datasets.records import Split, split_of
from textenv.errors import ConfigError, DataError
from textenv.runs import Run
from textenv.tasks import Conversation, Demonstrated, Task, load_tasks
from textenv.tasks.files import read_conversations


def load_task_data(config: PretrainCommand | SFTCommand) -> RatedData:
    """The tasks and conversations that a command names.

    Raises:
        ConfigError: If something is named that does not exist.
        DataError: If data are malformed; names file, line, field and what was expected.
    """
    began = time.monotonic()
    tasks = load_tasks(config.tasks)
    found: list[Conversation] = []
    for path in getattr(config, "conversations", ()):
        found += read_conversations(path, task=Path(path).stem)
    return RatedData(config.data, (), time.monotonic() - began, tasks, found)


def pretrain_tasks_stage(
    run: Run, tasks: Sequence[Task], config: PretrainConfig, seed: int, model_folder: Path | None = None
) -> dict[str, Any]:
    """Writes ``pretrain/``, a language model with its tokenizer, and ``corpus/``, the tasks as token files.

    Args:
        run: The run.
        tasks: What to read.
        config: Settings.
        seed: Of everything random; overrides the configuration's.
        model_folder: Model and tokenizer to go on with; None makes new ones.
    """
    config = replace(config, training=replace(config.training, seed=seed))
    start = None
    if model_folder is not None:
        parts = policy_files.load(model_folder, dtype="float32", lora=None, critic="shared", device="cpu")
        model = merged(parts.model) if hasattr(parts.model, "disable_adapter") else parts.model
        start = model.requires_grad_(True), parts.tokenizer
    model, tokenizer, summary = pretrain_on_tasks(tasks, config, run.path / "corpus", start=start, run=run)
    save_lm(model, tokenizer, run.stage("pretrain"))
    return summary


def sft_tasks_stage(
    run: Run,
    tasks: Sequence[Task],
    config: SFTConfig,
    model_folder: Path,
    seed: int,
    *,
    conversations: Sequence[Conversation] = (),
    chat: bool = False,
) -> dict[str, Any]:
    """Writes ``sft/``, the same model, taught to answer.

    Args:
        run: The run.
        tasks: Questions with answers.
        config: Settings.
        model_folder: The model and its tokenizer.
        seed: Of everything random; overrides the configuration's.
        conversations: Conversations; what the first message of the user says decides their split.
        chat: Ask the tasks' questions as chat messages.

    Raises:
        DataError: If there is nothing to learn from or to validate on.
    """
    splits: tuple[Split, ...] = ("train", "validation")
    found = {split: task_demonstrations(tasks, conversations, split, chat=chat) for split in splits}
    empty = [split for split, shown in found.items() if not shown]
    if empty:
        raise DataError(f"no demonstrations in the {empty[0]} split; give more tasks or conversations")
    return fine_tune(run, found["train"], found["validation"], config, model_folder, seed, by_task=True)


def task_demonstrations(
    tasks: Sequence[Task], conversations: Sequence[Conversation], split: Split, *, chat: bool = False
) -> list[Demonstrated | Conversation]:
    """What there is to imitate in a split.

    Args:
        tasks: Questions with answers.
        conversations: Conversations.
        split: Which.
        chat: Ask the tasks' questions as chat messages.

    Raises:
        ConfigError: If a conversation file has the name of a task.
    """
    both = {task.name for task in tasks} & {conversation.task for conversation in conversations}
    if both:
        raise ConfigError(f"a task and a file of conversations are both called {sorted(both)[0]!r}; rename one")
    found: list[Demonstrated | Conversation] = []
    for task in tasks:
        found += task.conversations(split) if chat else task.demonstrations(split)
    return found + [shown for shown in conversations if split_of(_asked_first(shown)) == split]


def _asked_first(conversation: Conversation) -> str:
    """What tells conversations apart: a system prompt may stand before all of them."""
    said = (message["content"] for message in conversation.messages if message["role"] == "user")
    return next(said, conversation.messages[0]["content"])
