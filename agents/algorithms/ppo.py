"""PPO with a value head and KL-regularisation against a reference model.

One iteration: play an episode in every slot, score it (the environment does that), compute log-probs, values and
reference log-probs in one pass each, put −β·log(π/π_ref) on every token, estimate advantages, optimise the clipped
surrogate for a few epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval

from agents.algorithms.surrogate import penalties
from agents.formulas.advantages import gae, whiten
from agents.formulas.losses import clipped_policy_loss, clipped_value_loss, ratio_figures
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.policy import PolicyOutputs
from textenv.settings import NonNegativeFloat, PositiveFloat, PositiveInt, UnitFloat


@dataclass(frozen=True)
class PPOConfig(LearnerConfig):
    """Settings of PPO; defaults follow Ziegler et al. 2019 and Huang et al. 2024 (arXiv:2403.17031) where they agree.

    Attributes:
        epochs: Passes over each iteration's episodes.
        gae_lambda: Trace decay per token.
        clip_range: Of the probability ratio.
        clip_range_vf: Of the value estimate, score units; None does not clip.
        vf_coef: Weight of the value loss.
        whiten_rewards: Scale rewards to variance 1, keeping their mean.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over the iteration's tokens.

    Raises:
        ConfigError: If a value is out of its range.
    """

    epochs: PositiveInt = 4
    gae_lambda: UnitFloat = 0.95
    clip_range: Annotated[float, Interval(gt=0, lt=1)] = 0.2
    clip_range_vf: PositiveFloat | None = 0.2
    vf_coef: NonNegativeFloat = 0.1
    whiten_rewards: bool = False
    whiten_advantages: bool = True


def gae_advantages(experience: Experience, config: PPOConfig) -> Advantages:
    """Generalised advantage estimates; returns come from whitened rewards but unwhitened advantages.

    Source: Ziegler et al. 2019, arXiv:1909.08593 (code).
    """
    mask, rewards = experience.action_mask, experience.rewards
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, total=experience.world.sum)
    advantages, returns = gae(
        rewards,
        experience.values,
        experience.last_values,
        mask,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, total=experience.world.sum)
    return Advantages(advantages, returns)


def ppo_loss(new: PolicyOutputs, old: OldTokens, config: PPOConfig) -> TokenLoss:
    """Clipped surrogate, clipped value error and entropy bonus of each token.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9.
    """
    # 1. How much likelier each token is now than when it was played: 1 in the first step of an iteration.
    log_ratio = torch.where(old.counted_mask, new.logprobs - old.logprobs, 0.0)
    ratio = log_ratio.exp()
    # 2. Raise what turned out better than expected, by no more than the clip range: the estimate holds nearby only.
    policy = clipped_policy_loss(ratio, old.advantages, clip_range=config.clip_range)
    # 3. Move the critic towards the returns, by no more than its own clip range.
    value = clipped_value_loss(new.values, old.values, old.returns, clip_range_vf=config.clip_range_vf)
    # 4. Entropy bonus, and the KL where the configuration puts it into the loss rather than into the reward.
    total = old.importance * policy + config.vf_coef * value + penalties(new, old, config)
    figures = ratio_figures(log_ratio, clip_range=config.clip_range)
    return TokenLoss(total, {"loss/policy": policy, "loss/value": value, **figures})


class PPO(Learner[PPOConfig]):
    """Proximal policy optimisation of a language model on text-generation environments; see :class:`Learner`.

    Source: Schulman et al. 2017, arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593.
    """

    config_type = PPOConfig
    default_estimator = staticmethod(gae_advantages)
    default_loss = staticmethod(ppo_loss)
    default_stage = "ppo"
    uses_critic = True
