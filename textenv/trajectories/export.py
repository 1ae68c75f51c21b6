"""Trajectories as other libraries want them: TRL's and ``datasets``' rows, JSON lines, preference pairs for DPO."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textenv.checkpoints import write_atomic
from textenv.errors import ConfigError, DataError
from textenv.trajectory import Trajectory


def trl_rows(trajectories: Iterable[Trajectory]) -> Iterator[dict[str, Any]]:
    """Rows with TRL's column names: ``prompt, completion, prompt_ids, completion_ids, logprobs`` and ``score``.

    ``datasets.Dataset.from_list(list(trl_rows(store)))`` makes a Hugging Face dataset of them. ``logprobs`` are those
    of the distribution that was drawn from, as TRL's ``rollout_func`` returns them.

    Args:
        trajectories: A store, a slice of one, or a list.

    Raises:
        DataError: If a trajectory does not know the log-probs of its draws.
    """
    for number, trajectory in enumerate(trajectories):
        if not trajectory.knows_behaviour:
            raise DataError(
                f"trajectory {number} ({trajectory.source}) has no log-probs of its draws, which TRL needs; leave it "
                "out, e.g. with store.where({'source': 'policy'})"
            )
        yield {
            "prompt": trajectory.prompt,
            "completion": trajectory.response,
            "prompt_ids": trajectory.prompt_ids.tolist(),
            "completion_ids": trajectory.token_ids.tolist(),
            "logprobs": trajectory.behaviour_logprobs.tolist(),
            "score": trajectory.score,
        }


def preference_pairs(
    trajectories: Iterable[Trajectory], *, pairs: Literal["best_worst", "all"] = "best_worst", margin: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Pairs for DPO and for reward models: ``prompt, chosen, rejected, score_chosen, score_rejected``.

    Answers to one prompt compete, and of them only those with the same ``group_id``.

    Args:
        trajectories: A store, a slice of one, or a list; all of them with scores.
        pairs: The best against the worst of a group, or every two.
        margin: Pairs whose scores differ by this or less are left out, and so are equal texts.

    Raises:
        ConfigError: If an argument is unusable.
        DataError: If a trajectory has no score.
    """
    if pairs not in ("best_worst", "all") or margin < 0:
        raise ConfigError(f"`pairs` must be 'best_worst' or 'all' and `margin` ≥ 0, got {pairs!r} and {margin}")
    groups: dict[tuple[str | None, str], list[tuple[float, str, str]]] = {}
    for number, trajectory in enumerate(trajectories):
        if trajectory.score is None:
            raise DataError(f"trajectory {number} has no score; score it first, or leave it out")
        groups.setdefault((trajectory.group_id, trajectory.prompt), []).append(
            (trajectory.score, trajectory.response, trajectory.prompt)
        )
    for group in groups.values():
        ranked = sorted(group, key=lambda answer: -answer[0])
        every = [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]]
        for better, worse in every if pairs == "all" else [(ranked[0], ranked[-1])]:
            if better[0] - worse[0] > margin and better[1] != worse[1]:
                yield {
                    "prompt": better[2],
                    "chosen": better[1],
                    "rejected": worse[1],
                    "score_chosen": better[0],
                    "score_rejected": worse[0],
                }


def write_jsonl(rows: Iterable[Trajectory | dict[str, Any]], path: str | Path) -> Path:
    """Write trajectories with all their fields, or rows of the other exporters, as JSON lines.

    What is not known is null; a log-prob of −inf is null too, since JSON has no infinity. The file appears when it is
    complete.

    Args:
        rows: A store, a slice of one, a list, or the rows of :func:`trl_rows` or :func:`preference_pairs`.
        path: The file; its folder must exist.

    Returns:
        ``path``.
    """
    path = Path(path)
    lines = [json.dumps(_plain(_record(row)), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_atomic(path, "".join(lines))
    return path


def _record(row: Trajectory | dict[str, Any]) -> dict[str, Any]:
    return row if isinstance(row, dict) else {entry.name: getattr(row, entry.name) for entry in fields(row)}


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
