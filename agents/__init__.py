"""Policies and learners: pre-training, supervised fine-tuning, PPO.

Note that the PyPI package ``openai-agents`` installs an import package of the same name; do not install both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.evaluation import Evaluation, evaluate_policy
    from agents.finetuning import SFTConfig, sft
    from agents.forward import SequenceBatch
    from agents.language_modeling import LMConfig
    from agents.policy import CausalLMPolicy
    from agents.ppo import PPO, PPOConfig
    from agents.pretraining import ModelConfig, PretrainConfig, pretrain
    from textenv.sampling.params import SamplingParams

_HOMES = {
    "CausalLMPolicy": "agents.policy",
    "Evaluation": "agents.evaluation",
    "LMConfig": "agents.language_modeling",
    "ModelConfig": "agents.pretraining",
    "PPO": "agents.ppo",
    "PPOConfig": "agents.ppo",
    "PretrainConfig": "agents.pretraining",
    "SFTConfig": "agents.finetuning",
    "SamplingParams": "textenv.sampling.params",
    "SequenceBatch": "agents.forward",
    "evaluate_policy": "agents.evaluation",
    "pretrain": "agents.pretraining",
    "sft": "agents.finetuning",
}

__all__ = [
    "PPO",
    "CausalLMPolicy",
    "Evaluation",
    "LMConfig",
    "ModelConfig",
    "PPOConfig",
    "PretrainConfig",
    "SFTConfig",
    "SamplingParams",
    "SequenceBatch",
    "evaluate_policy",
    "pretrain",
    "sft",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
