"""Wrappers and callbacks that have a state beyond the running episode, so that checkpoints hold it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from agents.learning.rollouts import layers
from textenv.errors import CheckpointError


def stateful(parts: Iterable[Any]) -> list[Any]:
    """Those that can save their state."""
    return [part for part in parts if hasattr(part, "get_state") and hasattr(part, "set_state")]


def stateful_layers(envs: VectorEnv) -> list[Any]:
    """What of an environment's wrappers has a state: statistics and KL controllers."""
    hooks = [layer.hook for layer in layers(envs) if hasattr(layer, "hook")]
    return stateful(getattr(hook, "controller", hook) for hook in hooks)


def set_states(parts: list[Any], saved: list[Any], name: str, folder: Path) -> None:
    """Put states back.

    Args:
        parts: What they are of.
        saved: What their ``get_state`` gave.
        name: Of the parts, for the message.
        folder: Where the states were read, for the message.

    Raises:
        CheckpointError: If they are of other parts.
    """
    if len(parts) != len(saved):
        raise CheckpointError(
            f"`{folder}` holds the state of {len(saved)} {name} part(s), this agent has {len(parts)}; give it the "
            "wrappers and callbacks that it had"
        )
    for part, state in zip(parts, saved, strict=True):
        part.set_state(state)
