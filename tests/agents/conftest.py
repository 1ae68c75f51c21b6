"""A tokenizer and a language model small enough for milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
from agents.policy import CausalLMPolicy

TEXTS = [f"the {a} film is {b}" for a in ("old", "new", "long") for b in ("good", "bad", "fine", "very good")]
TINY = ModelConfig(vocab_size=280, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, context=48)


@pytest.fixture(scope="session")
def trained_tokenizer() -> Any:
    return train_tokenizer(TEXTS, TINY.vocab_size)


@pytest.fixture
def tokenizer(trained_tokenizer: Any) -> Any:
    """One for each test: a policy declares on its tokenizer how prompts are put."""
    return copy.deepcopy(trained_tokenizer)


@pytest.fixture
def make_policy(tokenizer: Any) -> Callable[..., CausalLMPolicy]:
    def make(seed: int = 0, *, dtype: torch.dtype | None = None, value_noise: float = 0.0) -> CausalLMPolicy:
        policy = CausalLMPolicy(build_model(TINY, tokenizer, seed), tokenizer, compute_dtype=dtype)
        if value_noise:
            assert policy.value_head is not None
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                policy.value_head.weight.copy_(torch.randn(policy.value_head.weight.shape, generator=generator))
        return policy

    return make


@pytest.fixture
def policy(make_policy: Callable[..., CausalLMPolicy]) -> CausalLMPolicy:
    return make_policy(value_noise=1.0)
