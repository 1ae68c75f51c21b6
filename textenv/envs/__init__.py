"""The environments; names load when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textenv.envs.options import IDLE as IDLE
    from textenv.envs.state import EnvState as EnvState
    from textenv.envs.task import GenerationTask as GenerationTask
    from textenv.envs.task import TokenStep as TokenStep
    from textenv.envs.text_generation import TextGenerationEnv as TextGenerationEnv
    from textenv.envs.tokenizers import ToyTokenizer as ToyTokenizer
    from textenv.envs.vector import TextGenerationVectorEnv as TextGenerationVectorEnv

_HOME = {
    "IDLE": "textenv.envs.options",
    "EnvState": "textenv.envs.state",
    "GenerationTask": "textenv.envs.task",
    "TokenStep": "textenv.envs.task",
    "TextGenerationEnv": "textenv.envs.text_generation",
    "TextGenerationVectorEnv": "textenv.envs.vector",
    "ToyTokenizer": "textenv.envs.tokenizers",
}

__all__ = [
    "IDLE",
    "EnvState",
    "GenerationTask",
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "TokenStep",
    "ToyTokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
