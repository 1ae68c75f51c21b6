"""Small tasks that the environment tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv import TextGenerationEnv, TextGenerationVectorEnv
from textenv.envs import ToyTokenizer

PIECES = ("a", "b", "c", "ab", "bc", "\n", "x")
PAD, EOS, A, B, C, AB, BC, NEWLINE, X = range(9)


def length_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward that depends on both texts and can be pickled."""
    return [len(r) + 0.125 * len(p) for p, r in zip(prompts, responses, strict=True)]


def tokenizer() -> ToyTokenizer:
    return ToyTokenizer(PIECES)


def arguments(**changes: Any) -> dict[str, Any]:
    """Arguments of a small task."""
    defaults: dict[str, Any] = {
        "tokenizer": tokenizer(),
        "prompts": ["a", "bc", "xxx", "abc"],
        "reward": length_reward,
        "max_new_tokens": 5,
    }
    return defaults | changes


def make_env(**changes: Any) -> Any:
    return TextGenerationEnv(**arguments(**changes))


def make_envs(num_envs: int = 3, **changes: Any) -> Any:
    return TextGenerationVectorEnv(num_envs, **arguments(**changes))


def write(env: Any, tokens: Sequence[int]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Takes actions and returns the last step."""
    step = None
    for token in tokens:
        step = env.step(token)
    assert step is not None
    return step


def write_all(envs: Any, rows: Sequence[Sequence[int]]) -> Any:
    """Steps with each row as the actions of all slots and returns the last step."""
    step = None
    for row in rows:
        step = envs.step(np.array(row))
    assert step is not None
    return step
