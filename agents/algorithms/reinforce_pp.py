"""REINFORCE++: PPO's clipped update with returns in place of a critic, normalised over the whole batch.

The batch's mean contains the answer's own reward and its standard deviation is random, so the gradient is biased by
O(1/batch); in the limit of a large batch it is the policy gradient divided by the standard deviation, and without
normalisation it is the policy gradient at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from agents.algorithms.groups import above_mean, check_groups, scored_groups, spread
from agents.algorithms.surrogate import surrogate_loss
from agents.formulas.advantages import centred, gae, whiten
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.policy import PolicyOutputs
from textenv.settings import NonNegativeFloat, PositiveFloat


@dataclass(frozen=True)
class ReinforcePPConfig(LearnerConfig):
    """Settings of REINFORCE++; defaults follow Hu et al. 2025, arXiv:2501.03262 (general tasks).

    Attributes:
        learning_rate: Peak of Adam's learning rate.
        kl_coef: Reward units per nat of KL, paid token by token.
        baseline: ``"batch"``: nothing but the batch's mean; ``"group"``: first the mean of the answers to the same
            prompt (REINFORCE++-baseline), which needs ``group_size`` ≥ 2 and compares whole answers.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over all tokens of the iteration.
        clip_range: Of the probability ratio.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: PositiveFloat = 5e-7
    kl_coef: NonNegativeFloat = 0.01
    baseline: Literal["batch", "group"] = "batch"
    whiten_advantages: bool = True
    clip_range: PositiveFloat = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline == "group":
            check_groups(self)


def reward_to_go(rewards: torch.Tensor, mask: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Discounted sum of what is still paid from each token on, shape ``(B, T)``, 0 off the mask.

    Args:
        rewards: Reward received after each token, shape ``(B, T)``.
        mask: True on tokens that the policy chose, shape ``(B, T)``.
        gamma: Discount per token.
    """
    zeros = torch.zeros_like(rewards)
    return gae(rewards, zeros, zeros[:, 0], mask, gamma=gamma, gae_lambda=1.0)[0]


def reinforce_pp_advantages(experience: Experience, config: ReinforcePPConfig) -> Advantages:
    """Returns from each token on, or the answer's reward above its group's mean; then normalised over the batch.

    Where some answers were not scored, returns are centred even without normalisation: with no baseline, an answer that
    is left out would be one worth 0.

    Source: Hu et al. 2025, arXiv:2501.03262, sections 3.2 and 3.3.
    """
    mask, total = experience.counted_mask, experience.world.sum
    if config.baseline == "group":
        advantages = spread(above_mean(*scored_groups(experience)).flatten(), mask)
    else:
        advantages = reward_to_go(experience.rewards, mask, gamma=config.gamma)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, total=total)
    elif config.baseline == "batch" and bool(total((experience.action_mask & ~mask).sum())):
        advantages = centred(advantages, mask, total=total).to(advantages.dtype)
    return Advantages(advantages)


def reinforce_pp_loss(new: PolicyOutputs, old: OldTokens, config: ReinforcePPConfig) -> TokenLoss:
    """Clipped surrogate of each token."""
    return surrogate_loss(new, old, config, clip_range=config.clip_range)


class ReinforcePP(Learner[ReinforcePPConfig]):
    """REINFORCE++ on text-generation environments; see :class:`Learner`.

    Source: Hu et al. 2025, arXiv:2501.03262.
    """

    config_type = ReinforcePPConfig
    default_estimator = staticmethod(reinforce_pp_advantages)
    default_loss = staticmethod(reinforce_pp_loss)
    default_stage = "reinforce_pp"
