"""Tasks as recipes name them: one record says where the items come from and how they are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import MinLen

from textenv.datasets.rated_texts import DOMAINS, Domain
from textenv.errors import ConfigError
from textenv.settings import NonNegativeInt, Settings
from textenv.tasks.files import Fields, load_dataset_rows, read_task, task_from_rows
from textenv.tasks.procedural import procedural_task
from textenv.tasks.task import Task, TaskReward
from textenv.tasks.verifiers import VERIFIERS

Kind = Literal["builtin", "file", "dataset", "reasoning_gym", "questions", "bible", "ratings"]


@dataclass(frozen=True)
class TaskSource(Settings):
    """One task of a recipe.

    Attributes:
        name: Of the task; for ``builtin``, ``questions`` and ``ratings`` also what to load.
        kind: ``builtin`` (made on the spot), ``file`` (JSONL, CSV, Parquet), ``dataset`` (Hugging Face: hub name, or a
            folder), ``reasoning_gym`` (a generator), ``questions`` (SocialIQA, MMLU sample, …), ``bible``, ``ratings``.
        path: The file, the dataset, or the generator of ``reasoning_gym``.
        count: Items to make or to keep; 0 takes the source's default, or all.
        seed: Of the generators.
        fields: Names of the fields of a file or dataset.
        verifier: ``same_text``, ``same_number``, ``same_choice`` or ``none``; empty takes the source's own.
        prompt: What the policy sees, with ``{question}``; empty takes the source's own form.
        response: The asked form, with ``{answer}``; empty takes the source's own form.
        settings: Of the generator of ``reasoning_gym``; ``split`` of a dataset.

    Raises:
        ConfigError: If the name is empty, a path is missing, or the verifier is unknown.
    """

    name: Annotated[str, MinLen(1), "every task has one"]
    kind: Kind = "builtin"
    path: str = ""
    count: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    fields: Fields = field(default_factory=Fields)
    verifier: str = ""
    prompt: str = ""
    response: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("file", "dataset", "reasoning_gym") and not self.path:
            raise ConfigError(f"task {self.name!r}: `kind: {self.kind}` needs a `path`")
        if self.verifier not in ("", "none", *VERIFIERS):
            raise ConfigError(
                f"task {self.name!r}: `verifier` must be none or one of {', '.join(VERIFIERS)}, got {self.verifier!r}"
            )


def load_task(source: TaskSource) -> Task:
    """The task that a recipe names.

    Raises:
        ConfigError: If something is named that does not exist.
        DataError: If data cannot be fetched or are malformed.
        MissingDependencyError: If the source needs a package that is not installed.
    """
    task = _from_source(source)
    format = task.format
    if source.prompt or source.response:
        format = replace(
            format,
            prompt=source.prompt or format.prompt,
            response=source.response or format.response,
            pattern="" if source.response else format.pattern,
        )
    verifier = task.verifier if not source.verifier else VERIFIERS.get(source.verifier)
    items = task.items[: source.count] if source.count else task.items
    return Task(source.name, items, format, verifier)


def load_tasks(sources: Sequence[TaskSource]) -> list[Task]:
    """All tasks of a recipe, in its order.

    Raises:
        ConfigError: If two have the same name, or as :func:`load_task`.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"tasks need different names, got {', '.join(names)}")
    return [load_task(source) for source in sources]


def reward_name(sources: Sequence[TaskSource]) -> str:
    """The verifiers of tasks as one text: a name for ``reward=`` that survives JSON, files and other processes."""
    return "tasks:" + json.dumps([asdict(source) for source in sources])


def named_reward(reference: str) -> TaskReward:
    """The verifiable reward that a name stands for.

    Args:
        reference: ``tasks:`` and names of built-in tasks with commas between, such as ``tasks:addition,compare``, or
            ``tasks:`` and a JSON list of the fields of :class:`TaskSource`, which is what :func:`reward_name` writes.

    Raises:
        ConfigError: If it is neither, or as :func:`load_task`.
        DataError: As :func:`load_task`.
    """
    given = reference.removeprefix("tasks:").strip()
    if not given.startswith("["):
        sources = [TaskSource(name.strip()) for name in given.split(",")]
    else:
        try:
            sources = [TaskSource(**row | {"fields": Fields(**row.get("fields", {}))}) for row in json.loads(given)]
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"the reward {reference[:80]!r} does not list tasks as JSON: {error}") from error
    return TaskReward(load_tasks(sources))


def _from_source(source: TaskSource) -> Task:
    if source.kind == "builtin":
        return procedural_task(source.name, source.count or 4000, source.seed)
    if source.kind == "file":
        return read_task(source.path, source.name, fields=source.fields)
    if source.kind == "dataset":
        folder, split = Path(source.path), str(source.settings.get("split", "train"))
        if folder.is_dir():  # what `save_to_disk` wrote: one split, or a folder of them
            part = folder / split if (folder / split).is_dir() else folder
            return read_task(part, source.name, fields=source.fields)
        return task_from_rows(load_dataset_rows(source.path, split), source.name, fields=source.fields)
    if source.kind == "reasoning_gym":
        from textenv.tasks.reasoning_gym import reasoning_gym_task

        return reasoning_gym_task(
            source.path, source.count or 1000, source.seed, settings=source.settings, name=source.name
        )
    from textenv.tasks import public

    if source.kind == "questions":
        return public.question_task(source.path or source.name)
    if source.kind == "bible":
        return public.bible_task()
    domain = source.path or source.name
    if domain not in DOMAINS:
        raise ConfigError(f"task {source.name!r}: `kind: ratings` knows {', '.join(DOMAINS)}, got {domain!r}")
    return public.ratings_task(cast("Domain", domain))
