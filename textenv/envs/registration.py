"""Registers the environments; Gymnasium 1.x has no plugin entry point, so ``import textenv`` does it."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

IDS = ("textenv/TextGeneration-v0", "textenv/Toy-v0")
"""The registered environment ids."""


def register_envs() -> None:
    """Registers every id once; without ``max_episode_steps``, whose wrapper would end episodes unscored."""
    if IDS[0] in registry:
        return
    register(
        id="textenv/TextGeneration-v0",
        entry_point="textenv.envs.text_generation:TextGenerationEnv",
        vector_entry_point="textenv.envs.vector:TextGenerationVectorEnv",
    )
    register(
        id="textenv/Toy-v0",
        entry_point="textenv.envs.toy:ToyEnv",
        vector_entry_point="textenv.envs.toy:ToyVectorEnv",
    )
