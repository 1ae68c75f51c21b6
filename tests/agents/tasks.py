"""Tasks for the tiny language model."""

from __future__ import annotations

from typing import Any

import textenv
from agents.algorithms.ppo import PPOConfig

PROMPTS = ["the old film", "the new film is very", "a", "the long"]
CONFIG = PPOConfig(learning_rate=1e-3, epochs=2, num_minibatches=2, micro_batch_size=2, kl_coef=0.1)


def count_good(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward with a known optimum: as many letters a as possible."""
    return [float(r.count("a")) for r in responses]


def variety(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that an untrained policy gets, too, and that differs from answer to answer."""
    return [len(set(r)) + 0.1 * len(r) for r in responses]


def make_envs(
    tokenizer: Any, reward: Any = count_good, num_envs: int = 8, **options: Any
) -> textenv.TextGenerationVectorEnv:
    options = {"max_new_tokens": 6, "prompt_dealing": "shared"} | options
    return textenv.TextGenerationVectorEnv(num_envs, tokenizer, PROMPTS, reward, **options)
