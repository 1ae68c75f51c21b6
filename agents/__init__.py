"""Policies and learners: pre-training, supervised fine-tuning, PPO and the algorithms beside it.

Note that the PyPI package ``openai-agents`` installs an import package of the same name; do not install both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.algorithms.a2c import A2C, A2CConfig
    from agents.algorithms.dpo import DPO, DPOConfig
    from agents.algorithms.expert_iteration import ExpertIteration, ExpertIterationConfig
    from agents.algorithms.grpo import GRPO, DrGRPO, DrGRPOConfig, GRPOConfig
    from agents.algorithms.ppo import PPO, PPOConfig
    from agents.algorithms.reinforce_pp import ReinforcePP, ReinforcePPConfig
    from agents.algorithms.rloo import RLOO, RLOOConfig
    from agents.critic import Critic
    from agents.evaluation import Evaluation, evaluate_policy
    from agents.finetuning import SFTConfig, sft
    from agents.forward import SequenceBatch
    from agents.language_modeling import LMConfig
    from agents.learning.held_out import HeldOut
    from agents.learning.protocols import Agent
    from agents.learning.recording import StoreRecorder
    from agents.learning.trackers import Trackers
    from agents.policy import CausalLMPolicy
    from agents.preference_pairs import TokenPair, pairs_from_trajectories
    from agents.pretraining import ModelConfig, PretrainConfig, pretrain
    from textenv.sampling.params import SamplingParams


_HOMES = {
    "A2C": "agents.algorithms.a2c",
    "A2CConfig": "agents.algorithms.a2c",
    "Agent": "agents.learning.protocols",
    "CausalLMPolicy": "agents.policy",
    "Critic": "agents.critic",
    "DPO": "agents.algorithms.dpo",
    "DPOConfig": "agents.algorithms.dpo",
    "DrGRPO": "agents.algorithms.grpo",
    "DrGRPOConfig": "agents.algorithms.grpo",
    "Evaluation": "agents.evaluation",
    "ExpertIteration": "agents.algorithms.expert_iteration",
    "ExpertIterationConfig": "agents.algorithms.expert_iteration",
    "GRPO": "agents.algorithms.grpo",
    "GRPOConfig": "agents.algorithms.grpo",
    "HeldOut": "agents.learning.held_out",
    "LMConfig": "agents.language_modeling",
    "ModelConfig": "agents.pretraining",
    "PPO": "agents.algorithms.ppo",
    "PPOConfig": "agents.algorithms.ppo",
    "PretrainConfig": "agents.pretraining",
    "RLOO": "agents.algorithms.rloo",
    "RLOOConfig": "agents.algorithms.rloo",
    "ReinforcePP": "agents.algorithms.reinforce_pp",
    "ReinforcePPConfig": "agents.algorithms.reinforce_pp",
    "SFTConfig": "agents.finetuning",
    "SamplingParams": "textenv.sampling.params",
    "SequenceBatch": "agents.forward",
    "StoreRecorder": "agents.learning.recording",
    "TokenPair": "agents.preference_pairs",
    "Trackers": "agents.learning.trackers",
    "evaluate_policy": "agents.evaluation",
    "pairs_from_trajectories": "agents.preference_pairs",
    "pretrain": "agents.pretraining",
    "sft": "agents.finetuning",
}

__all__ = [
    "A2C",
    "DPO",
    "GRPO",
    "PPO",
    "RLOO",
    "A2CConfig",
    "Agent",
    "CausalLMPolicy",
    "Critic",
    "DPOConfig",
    "DrGRPO",
    "DrGRPOConfig",
    "Evaluation",
    "ExpertIteration",
    "ExpertIterationConfig",
    "GRPOConfig",
    "HeldOut",
    "LMConfig",
    "ModelConfig",
    "PPOConfig",
    "PretrainConfig",
    "RLOOConfig",
    "ReinforcePP",
    "ReinforcePPConfig",
    "SFTConfig",
    "SamplingParams",
    "SequenceBatch",
    "StoreRecorder",
    "TokenPair",
    "Trackers",
    "evaluate_policy",
    "pairs_from_trajectories",
    "pretrain",
    "sft",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
