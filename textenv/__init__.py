"""textenv: text generation as a Gymnasium environment.

Importing it registers ``textenv/TextGeneration-v0`` and ``textenv/Toy-v0``; it loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from textenv.envs.registration import register_envs
from textenv.episode import Episode, FinishReason
from textenv.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingDependencyError,
    RewardError,
    RunCheckError,
    ShapeError,
    TextEnvError,
)

if TYPE_CHECKING:
    from textenv.envs.state import EnvState as EnvState
    from textenv.envs.text_generation import TextGenerationEnv as TextGenerationEnv
    from textenv.envs.vector import TextGenerationVectorEnv as TextGenerationVectorEnv
    from textenv.prompts import Prompt as Prompt
    from textenv.prompts import PromptList as PromptList
    from textenv.rewards import call_reward as call_reward
    from textenv.rewards import register_reward as register_reward

_HOME = {
    "EnvState": "textenv.envs.state",
    "Prompt": "textenv.prompts",
    "PromptList": "textenv.prompts",
    "TextGenerationEnv": "textenv.envs.text_generation",
    "TextGenerationVectorEnv": "textenv.envs.vector",
    "call_reward": "textenv.rewards",
    "register_reward": "textenv.rewards",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EnvState",
    "Episode",
    "FinishReason",
    "MissingDependencyError",
    "Prompt",
    "PromptList",
    "RewardError",
    "RunCheckError",
    "ShapeError",
    "TextEnvError",
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "call_reward",
    "register_reward",
]


_ROOMS = ("datasets", "prompts", "rewards", "sampling", "testing", "trajectories", "wrappers")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"textenv.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_envs()
