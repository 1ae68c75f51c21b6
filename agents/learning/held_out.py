"""Held-out prompts that a learner is measured on while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.evaluation import evaluate_policy
from agents.learning.reference import Reference
from agents.policy import CausalLMPolicy
from agents.rollouts import Collector
from textenv.sampling.params import SamplingParams


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are not trained on, and how to measure.

    Attributes:
        prompts: Texts.
        reward: Reward function or model; None takes the environment's.
        n: Answers per prompt.
        sampling: Settings of the draws; None samples as in training.
        seed: Of the draws, the same at every evaluation.
    """

    prompts: Sequence[str]
    reward: Any = None
    n: int = 1
    sampling: SamplingParams | None = None
    seed: int = 0

    def measure(self, policy: CausalLMPolicy, reference: Reference, collector: Collector) -> dict[str, float]:
        """Mean score with its spread, KL against the reference where it can be measured, lengths and ends.

        Args:
            policy: Answers.
            reference: For the KL.
            collector: Whose sampling settings and environment's reward are taken where none are given here.

        Raises:
            RewardError: If the reward function fails.
        """
        sampling = self.sampling or collector.params
        summary = evaluate_policy(
            policy,
            self.prompts,
            collector.core.task.reward.get() if self.reward is None else self.reward,
            reference=reference if sampling.tempered_only else None,
            sampling=sampling,
            n=self.n,
            seed=self.seed,
        ).summary
        names = {
            "reward_mean": "eval/score",
            "reward_std": "eval/score_std",
            "kl": "eval/kl",
            "response_tokens": "eval/response_tokens",
            "eos_fraction": "eval/eos_fraction",
            "distinct_2": "eval/distinct_2",
        }
        return {name: float(summary[key]) for key, name in names.items() if key in summary}
