"""Prompt sources, and how prompts are dealt.

A source is plain data: something with a length whose items are prompts. Dealing is state, and belongs to the
environment (:class:`PromptDealer`): without replacement inside an epoch, seeded, able to save and restore its place.

Left out on purpose: downloading data (``textenv.datasets``) and turning prompts into tokens (``textenv.envs.task``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from textenv.answers.chat import Chat, Message, as_text
from textenv.errors import ConfigError, DataError
from textenv.records import each, read_rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        text: What is asked, as the reward function sees it (a :class:`textenv.answers.Chat` where there are messages);
            None where only ids are given (they are decoded then).
        ids: Its tokens where it comes tokenised, else None.
        messages: Chat messages for the tokenizer's chat template, else None.
        task: Name of its task, else None.
    """

    text: str | None = None
    ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    task: str | None = None


def as_prompt(item: Any, where: str) -> Prompt:
    """A prompt from any accepted form.

    Args:
        item: A text, token ids (a list, array or tensor), a list of chat messages, a mapping with ``prompt`` (any of
            those; or ``prompt_ids`` or ``messages``) and optionally ``task``, or a :class:`Prompt`.
        where: Names the prompt in errors, e.g. ``"prompt 3"``.

    Raises:
        DataError: If it is none of those.
    """
    if isinstance(item, Prompt):
        return item
    if isinstance(item, str):
        return Prompt(text=item, messages=item.messages if isinstance(item, Chat) else None)
    if isinstance(item, Mapping):
        return _from_mapping(cast("Mapping[str, Any]", item), where)
    if hasattr(item, "tolist"):  # an array or a tensor
        item = item.tolist()
    if isinstance(item, Sequence):
        if len(item) and all(isinstance(part, Mapping) for part in item):
            chat = as_text(item, where)
            return Prompt(text=chat, messages=tuple(item))
        if all(isinstance(part, (int, np.integer)) for part in item):
            return Prompt(ids=tuple(int(part) for part in item))
    raise DataError(
        f"{where} must be a text, token ids, chat messages or a mapping with 'prompt', got {type(item).__name__}"
    )


def _from_mapping(item: Mapping[str, Any], where: str) -> Prompt:
    given = [name for name in ("prompt", "prompt_ids", "messages") if item.get(name) is not None]
    if not given:
        raise DataError(f"{where} has none of the fields 'prompt', 'prompt_ids', 'messages'; it has {sorted(item)}")
    task = item.get("task")
    if task is not None and not isinstance(task, str):
        raise DataError(f"{where}: 'task' must be a text, got {task!r}")
    inner = as_prompt(item[given[-1]], where)
    wanted = {"prompt_ids": ("ids", "token ids"), "messages": ("messages", "chat messages")}.get(given[-1])
    if wanted is not None and getattr(inner, wanted[0]) is None:
        raise DataError(f"{where}: {given[-1]!r} must be {wanted[1]}, got {type(item[given[-1]]).__name__}")
    text = item["prompt"] if isinstance(item.get("prompt"), str) else inner.text
    if inner.messages is not None:
        text = Chat(inner.messages, text)
    return Prompt(text=text, ids=inner.ids, messages=inner.messages, task=task)


class PromptList(Sequence[Prompt]):
    """Prompts in memory, from any sequence-like collection such as a Hugging Face dataset or a data frame.

    Args:
        items: Prompts in any form that :func:`as_prompt` takes.
        task_weights: Sampling weight by task name. Tasks are then drawn by weight and dealt without replacement
            inside each task; every prompt must belong to a task with a weight.

    Raises:
        DataError: If there is no prompt, or an item is no prompt.
        ConfigError: If weights are negative, all zero, or do not fit the prompts' tasks.
    """

    def __init__(self, items: Any, task_weights: Mapping[str, float] | None = None) -> None:
        if isinstance(items, Mapping):
            raise DataError(f"prompts must be a sequence, got a mapping with {sorted(items)}; choose one of its splits")
        self._items = [as_prompt(item, f"prompt {i}") for i, item in enumerate(each(items))]
        self.dropped: frozenset[int] = frozenset()
        if not self._items:
            raise DataError("there are no prompts; give at least one")
        self.task_weights = None if task_weights is None else dict(task_weights)
        if self.task_weights is not None:
            self._check_weights(self.task_weights)

    def _check_weights(self, weights: Mapping[str, float]) -> None:
        tasks = {self._items[i].task for i in self._kept()}
        for task in sorted(tasks, key=str):
            if task not in weights:
                raise ConfigError(f"task_weights lacks the task {task!r} of the prompts; it has {sorted(weights)}")
        for task, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"task_weights[{task!r}] must be a finite number ≥ 0, got {weight}")
            if weight > 0 and task not in tasks:
                raise ConfigError(f"task_weights names the task {task!r}, but no prompt belongs to it")
        if not any(weights.values()):
            raise ConfigError("task_weights are all 0; give at least one task a weight above 0")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def without(self, indices: Iterable[int]) -> PromptList:
        """The same prompts under the same indices, of which these are never dealt.

        Raises:
            DataError: If none is left.
            ConfigError: If none of a task with a weight is left.
        """
        kept = copy.copy(self)
        kept.dropped = self.dropped.union(int(i) for i in indices)
        if not kept._kept():
            raise DataError(f"all {len(self)} prompts are dropped; there is none left to deal")
        if kept.task_weights is not None:
            kept._check_weights(kept.task_weights)
        return kept

    def _kept(self) -> list[int]:
        return [i for i in range(len(self._items)) if i not in self.dropped]

    def sample(self, rng: np.random.Generator) -> int:
        """Index of a uniformly drawn prompt, with replacement; environments deal with :meth:`dealer` instead."""
        return int(rng.choice(self._kept())) if self.dropped else int(rng.integers(len(self._items)))

    def dealer(self) -> PromptDealer:
        """A fresh dealer over these prompts."""
        if self.task_weights is None:
            return PromptDealer(len(self._items), groups=[self._kept()] if self.dropped else None)
        groups: dict[str, list[int]] = {}
        for index in self._kept():
            groups.setdefault(str(self._items[index].task), []).append(index)
        weights = [self.task_weights[task] for task in groups]
        return PromptDealer(len(self._items), groups=list(groups.values()), weights=weights)


def load_prompts(prompts: Any, task_weights: Mapping[str, float] | None = None) -> Any:
    """A prompt source from whatever the user has.

    Args:
        prompts: A list of prompts, a Hugging Face dataset, a data frame (pandas, polars), a path to a file (see
            :func:`read_prompts`), or a prompt source with its own ``sample`` or ``dealer``, which is returned as it is.
        task_weights: Sampling weight by task; see :class:`PromptList`.

    Raises:
        DataError: If a file is missing or malformed (with path and line), or there are no prompts.
        ConfigError: If the weights do not fit, or are given for a source that deals for itself.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    if isinstance(prompts, (str, Path)):
        return PromptList(read_prompts(Path(prompts)), task_weights)
    if _deals_for_itself(prompts):
        if task_weights is not None:
            raise ConfigError(f"task_weights cannot be given for a {type(prompts).__name__}, which deals for itself")
        return prompts
    if not hasattr(prompts, "__len__") or not hasattr(prompts, "__getitem__"):
        raise ConfigError(f"prompts must be a list, a dataset or a path to a file, got {type(prompts).__name__}")
    return PromptList(prompts, task_weights)


def _deals_for_itself(prompts: Any) -> bool:
    """Whether it is a prompt source; data frames have a ``sample`` of another kind."""
    is_frame = hasattr(prompts, "iloc") or hasattr(prompts, "to_dicts")
    return (hasattr(prompts, "sample") or hasattr(prompts, "dealer")) and not is_frame


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a JSON, JSONL, CSV or Parquet file; see :func:`textenv.records.read_rows`.

    Each row is a text, a list of token ids, or an object with ``prompt``, ``prompt_ids`` or ``messages``, and
    optionally ``task``. CSV (with a header) and Parquet have columns of those names.

    Raises:
        DataError: If the file is missing, of another kind, or malformed; with path and line.
        MissingDependencyError: If a Parquet file is given and pyarrow is not installed.
    """
    found = [as_prompt(row.value, f"{row.where}: the prompt") for row in read_rows(path)]
    if not found:
        raise DataError(f"{path}: the file holds no prompts")
    return found


class _Shuffle:
    """Draws 0 … size-1 in random order again and again, without storing a permutation.

    A Fisher-Yates shuffle whose swaps are kept in a dictionary, so that a thousand slots can each deal from a
    million prompts: memory grows with what was dealt in the epoch, not with the number of prompts.
    """

    __slots__ = ("dealt", "moved", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.dealt = 0
        self.moved: dict[int, int] = {}

    def draw(self, rng: np.random.Generator) -> int:
        if self.dealt == self.size:
            self.dealt = 0
            self.moved.clear()
        position = int(rng.integers(self.dealt, self.size))
        picked = self.moved.get(position, position)
        first = self.moved.pop(self.dealt, self.dealt)
        if position != self.dealt:
            self.moved[position] = first
        self.dealt += 1
        return picked


class PromptDealer:
    """Deals prompt indices: without replacement inside an epoch, or by task weight and without replacement per task.

    Args:
        size: Number of prompts.
        groups: Indices by task, where tasks are weighted; or one list, where only some of the prompts are dealt.
        weights: Sampling weight of each group, not necessarily summing to 1.
    """

    def __init__(
        self, size: int, *, groups: Sequence[Sequence[int]] | None = None, weights: Sequence[float] | None = None
    ) -> None:
        self._groups = groups
        self._cumulative = None if weights is None else np.cumsum(np.asarray(weights, np.float64)) / np.sum(weights)
        self._shuffles = [_Shuffle(len(group)) for group in groups] if groups is not None else [_Shuffle(size)]

    def deal(self, rng: np.random.Generator) -> int:
        """Index of the next prompt."""
        if self._groups is None:
            return self._shuffles[0].draw(rng)
        if self._cumulative is None:
            return self._groups[0][self._shuffles[0].draw(rng)]
        group = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self._groups) - 1)
        return self._groups[group][self._shuffles[group].draw(rng)]

    def restart(self) -> None:
        """Begins a fresh epoch, as after ``reset(seed=...)``."""
        for shuffle in self._shuffles:
            shuffle.dealt = 0
            shuffle.moved.clear()

    def get_state(self) -> dict[str, Any]:
        """The dealer's place in its epoch, JSON-able; the generator's state is the caller's."""
        return {"shuffles": [{"dealt": s.dealt, "moved": sorted(s.moved.items())} for s in self._shuffles]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved place.

        Raises:
            ConfigError: If the state belongs to other prompts.
        """
        saved = state["shuffles"]
        if len(saved) != len(self._shuffles) or any(
            entry["dealt"] > shuffle.size for entry, shuffle in zip(saved, self._shuffles, strict=True)
        ):
            raise ConfigError("the saved prompt state belongs to another set of prompts or task weights")
        for entry, shuffle in zip(saved, self._shuffles, strict=True):
            shuffle.dealt = int(entry["dealt"])
            shuffle.moved = {int(key): int(value) for key, value in entry["moved"]}


class SourceDealer:
    """Deals from a source with its own ``sample(rng)``; its place is whatever the source's own state methods say.

    Args:
        source: The prompt source.
    """

    def __init__(self, source: Any) -> None:
        self.source = source

    def deal(self, rng: np.random.Generator) -> int:
        """Index of the next prompt."""
        return int(self.source.sample(rng))

    def restart(self) -> None:
        """Leaves the source as it is: its order is its own."""

    def get_state(self) -> dict[str, Any]:
        """The source's own ``get_state()``, or nothing."""
        return {"source": self.source.get_state()} if hasattr(self.source, "get_state") else {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`get_state` saved."""
        if "source" in state:
            self.source.set_state(state["source"])


def make_dealer(source: Any) -> PromptDealer | SourceDealer:
    """A dealer for a source: its own ``dealer()``, else its ``sample(rng)``, else without replacement per epoch."""
    if hasattr(source, "dealer"):
        return source.dealer()
    if hasattr(source, "sample"):
        return SourceDealer(source)
    return PromptDealer(len(source))
