"""Language models of the toy vocabulary, small enough for milliseconds, and environments that fit them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.policy import CausalLMPolicy
from agents.sb3 import as_vec_env
from tests.agents.tabular import Vocabulary
from textenv.envs import toy

TOY = "textenv/Toy-v0"


def toy_lm(
    seed: int = 0, *, dtype: torch.dtype | None = None, critic: bool = False, double: bool = False, **kwargs: Any
) -> CausalLMPolicy:
    """A random language model for ``Toy-v0``'s default problem, with a critic that says something."""
    from agents.policy.critic import Critic

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=5, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
        model = LlamaForCausalLM(config)
        own = Critic.from_language_model(model, compute_dtype=dtype) if critic else None
        policy = CausalLMPolicy(model, Vocabulary(toy.make_mdp()), critic=own, compute_dtype=dtype, **kwargs)
        head = own.head if own is not None else policy.value_head
        assert head is not None
        torch.nn.init.normal_(head.weight, std=0.1)
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=1.0 if "embed" in name else 0.3)
    policy.push_weights()
    return policy.double() if double else policy


def toy_envs(num_envs: int = 4, **options: Any) -> Any:
    return as_vec_env(gym.make_vec(TOY, num_envs=num_envs, **options))
