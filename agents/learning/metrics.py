"""What an iteration looked like, under the project's names for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.advantages import explained_variance, masked_mean
from agents.kl import ESTIMATORS
from agents.learning.experience import Advantages, Experience

if TYPE_CHECKING:
    from agents.learning.learner import Learner


def summarize(
    agent: Learner[Any], experience: Experience, estimated: Advantages, steps: list[dict[str, float]]
) -> dict[str, float]:
    """Figures of an iteration, over all processes.

    Args:
        agent: Whose iteration it was.
        experience: What it learned from.
        estimated: Its advantages and returns.
        steps: What each optimiser step measured.
    """
    world, rollout, mask, config = experience.world, experience.rollout, experience.mask, agent.config
    scores = world.gather(torch.as_tensor(rollout.scores)).cpu().numpy()
    kl = float(world.gather(experience.kl_per_sequence).mean())
    rewards = float(world.gather(experience.sequence_rewards).double().mean())
    lengths = world.gather(mask.sum(1)).double()
    tokens = float(lengths.sum())
    mismatch = np.abs(rollout.behaviour_logprobs - experience.logprobs.cpu().numpy())[rollout.action_mask].sum()
    figures = {
        "objective/score": float(scores.mean()),
        "objective/score_std": float(scores.std()),
        "objective/kl": kl,
        "objective/kl_coef": experience.kl_coef,
        "objective/rlhf_reward": rewards - (0.0 if config.kl_placement == "reward" else experience.kl_coef * kl),
        "objective/entropy": float(world.sum(experience.entropy.double().sum())) / tokens,
        "rollout/response_tokens": float(lengths.mean()),
        "rollout/truncated_fraction": float(world.gather(torch.as_tensor(rollout.cut)).double().mean()),
        "rollout/new_tokens": tokens,
        "policy/ratio_first": steps[0]["policy/ratio"],
        "policy/sampler_mismatch": float(world.sum(torch.tensor(float(mismatch)))) / tokens,
        "policy/steps": float(len(steps)),
        "time/environment_seconds": rollout.environment_seconds,
    }
    if config.kl_estimator != "k1":
        estimate = torch.where(mask, ESTIMATORS[config.kl_estimator](experience.log_ratio), 0.0).double().sum(1)
        figures[f"objective/kl_{config.kl_estimator}"] = float(world.gather(estimate).mean())
    if experience.importance is not None:
        figures["policy/importance"] = float(masked_mean(experience.importance, mask, total=world.sum))
    if agent.uses_critic and estimated.returns is not None:
        figures["val/explained_variance"] = explained_variance(
            experience.values, estimated.returns, mask, total=world.sum
        )
        figures["val/mean"] = float(masked_mean(experience.values, mask, total=world.sum))
    return figures | {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
