"""Everything that scores responses and is no model of ours, as a reward model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.adapters.causal_policy import CausalPolicy
    from reward_models.adapters.classifier import ClassifierRewardModel
    from reward_models.adapters.dpo import DPOReward
    from reward_models.adapters.encoder import EncoderSimilarity
    from reward_models.adapters.function import FunctionReward
    from reward_models.adapters.http import HttpReward
    from reward_models.adapters.judge import RatingJudge, TextJudge
    from reward_models.adapters.logprobs import CausalLogprobs
    from reward_models.adapters.process import ProcessReward
    from reward_models.adapters.rules import FormatRule, KeywordRule, LengthRule, RegexRule
    from reward_models.adapters.scalar_head import ScalarHeadRewardModel

_HOMES = {
    "CausalLogprobs": "logprobs",
    "CausalPolicy": "causal_policy",
    "ClassifierRewardModel": "classifier",
    "DPOReward": "dpo",
    "EncoderSimilarity": "encoder",
    "FormatRule": "rules",
    "FunctionReward": "function",
    "HttpReward": "http",
    "KeywordRule": "rules",
    "LengthRule": "rules",
    "ProcessReward": "process",
    "RatingJudge": "judge",
    "RegexRule": "rules",
    "ScalarHeadRewardModel": "scalar_head",
    "TextJudge": "judge",
}

__all__ = [
    "CausalLogprobs",
    "CausalPolicy",
    "ClassifierRewardModel",
    "DPOReward",
    "EncoderSimilarity",
    "FormatRule",
    "FunctionReward",
    "HttpReward",
    "KeywordRule",
    "LengthRule",
    "ProcessReward",
    "RatingJudge",
    "RegexRule",
    "ScalarHeadRewardModel",
    "TextJudge",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
