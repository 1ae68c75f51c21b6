"""Language models under Stable-Baselines3 and sb3-contrib: stock algorithms, nothing forked.

See ``docs/bring-your-algorithm.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.sb3.buffer import SequenceRolloutBuffer
    from agents.sb3.callbacks import TextLogger
    from agents.sb3.kl import FrozenReference, connect_kl
    from agents.sb3.maskable import MaskableSequenceRolloutBuffer, MaskableTextPolicy
    from agents.sb3.policy import TextPolicy
    from agents.sb3.vec_env import TextVecEnv, as_vec_env

_HOMES = {
    "FrozenReference": "agents.sb3.kl",
    "MaskableSequenceRolloutBuffer": "agents.sb3.maskable",
    "MaskableTextPolicy": "agents.sb3.maskable",
    "SequenceRolloutBuffer": "agents.sb3.buffer",
    "TextLogger": "agents.sb3.callbacks",
    "TextPolicy": "agents.sb3.policy",
    "TextVecEnv": "agents.sb3.vec_env",
    "as_vec_env": "agents.sb3.vec_env",
    "connect_kl": "agents.sb3.kl",
}

__all__ = [
    "FrozenReference",
    "MaskableSequenceRolloutBuffer",
    "MaskableTextPolicy",
    "SequenceRolloutBuffer",
    "TextLogger",
    "TextPolicy",
    "TextVecEnv",
    "as_vec_env",
    "connect_kl",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: sb3-contrib is an extra."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
