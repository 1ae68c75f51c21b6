"""Tasks of the package ``reasoning-gym``: about a hundred procedural generators with verifiers of their own.

Source: Stojanovski et al. 2025, arXiv:2505.24760. An extra: ``pip install "textenv[reasoning]"`` brings version 0.1.25
(Apache-2.0) and the ten packages that it needs (sympy and pycosat among them).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from textenv.errors import ConfigError, MissingDependencyError
from textenv.tasks.items import LABELERS, Format, Item
from textenv.tasks.task import Task

ANSWERS = Format(pattern=r"Answer:\s*(?s:(?P<answer>\S.*))")
"""Form of these tasks: as the default, but an answer may take several lines (grids, boards)."""


def reasoning_gym_task(
    generator: str,
    count: int = 1000,
    seed: int = 0,
    *,
    settings: Mapping[str, Any] | None = None,
    name: str = "",
    format: Format | None = None,
) -> Task:
    """A generator's problems as a task; its own ``score_answer`` is the verifier.

    Splits are those of the questions; a question that comes twice counts once, and a problem without an answer to show
    is left out.

    Args:
        generator: Name in ``reasoning_gym``, such as ``chain_sum``.
        count: Problems to make.
        seed: Of the generator.
        settings: Further fields of its configuration.
        name: Of the task; empty takes the generator's.
        format: How items are asked and answered.

    Raises:
        MissingDependencyError: If ``reasoning-gym`` is not installed.
        ConfigError: If the generator or a setting is unknown.
    """
    try:
        reasoning_gym: Any = importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise MissingDependencyError(
            f'the generator {generator!r} needs reasoning-gym: pip install "textenv[reasoning]"'
        ) from error
    try:
        dataset = reasoning_gym.create_dataset(generator, size=count, seed=seed, **dict(settings or {}))
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"reasoning-gym cannot make {generator!r} with {dict(settings or {})}: {error}") from error
    found: dict[str, Item] = {}
    for entry in dataset:
        question, answer = str(entry["question"]), entry.get("answer")
        if answer is not None and str(answer).strip():
            found.setdefault(question, Item(question, (str(answer),), None, LABELERS, data=entry))
    if not found:
        raise ConfigError(f"reasoning-gym's {generator!r} gives no answers to show; choose another generator")

    def verify(item: Item, answer: str) -> float:
        return float(min(1.0, max(0.0, dataset.score_answer(answer, item.data))))

    return Task(name or generator, list(found.values()), format or ANSWERS, verify)
