"""Expert iteration: answer each prompt n times, learn the best answer by heart, repeat.

This is best-of-n distillation. Its expected gradient at a policy π is that of the cross-entropy to best-of-n from π, so
one round taken to its end makes best-of-n from the policy that played; k rounds make best-of-n^k. Nothing but stopping
keeps it from the single best answer: it has no regularised optimum. One long iteration (many ``num_envs`` and
``epochs``) is a round; many short ones follow the moving target instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agents.algorithms.groups import check_groups, scored_groups, spread
from agents.algorithms.surrogate import likelihood_loss
from agents.formulas.losses import Aggregation
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.policy import PolicyOutputs
from textenv.settings import NonNegativeFloat, PositiveInt


@dataclass(frozen=True)
class ExpertIterationConfig(LearnerConfig):
    """Settings of expert iteration; the papers' sizes differ too much to take any of them over.

    Attributes:
        group_size: Answers to each prompt, n, at least 2.
        kl_coef: Where it is not 0 and paid in the reward, the best answer is that with the best reward after it.
        loss_aggregation: ``"constant"``: the log-probability of the best answer counts as a whole, whatever its length,
            which is what makes the optimum best-of-n.

    Raises:
        ConfigError: If a value is out of its range.
    """

    group_size: PositiveInt = 8
    kl_coef: NonNegativeFloat = 0.0
    loss_aggregation: Aggregation = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_groups(self)


def best_of_group(rewards: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """1 for the best reward of each row and 0 for the others; the first of equals is the best.

    Args:
        rewards: Of the answers to each prompt, shape ``(P, n)``.
        counted: True on those that are scored, shape ``(P, n)``; None means all.

    Returns:
        Shape ``(P, n)``, each row with a single 1; none where fewer than two count: there is nothing to choose from.
    """
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted
    paid = torch.where(counted, rewards, -torch.inf)
    is_best = counted & (paid == paid.amax(1, keepdim=True)) & (counted.sum(1, keepdim=True) > 1)
    return (is_best & (is_best.cumsum(1) == 1)).to(rewards.dtype)


def expert_advantages(experience: Experience, config: ExpertIterationConfig) -> Advantages:
    """N for the best answer to each prompt and 0 for the others: with the mean over all, the mean over the best."""
    rewards, counted = scored_groups(experience)
    best = best_of_group(rewards, counted)
    total = experience.world.sum
    per_best = total(counted.sum()) / total(best.sum()).clamp(min=1)  # the group's size where all were scored
    return Advantages(spread((per_best * best).flatten(), experience.action_mask))


def expert_loss(new: PolicyOutputs, old: OldTokens, config: ExpertIterationConfig) -> TokenLoss:
    """−A·log π of each token: the cross-entropy of supervised fine-tuning on the best answers."""
    return likelihood_loss(new, old, config)


class ExpertIteration(Learner[ExpertIterationConfig]):
    """Best-of-n distillation on text-generation environments; see :class:`Learner`.

    Source: Anthony et al. 2017, arXiv:1705.08439; for language models Dong et al. 2023 (RAFT), arXiv:2304.06767.
    """

    config_type = ExpertIterationConfig
    default_estimator = staticmethod(expert_advantages)
    default_loss = staticmethod(expert_loss)
    default_stage = "expert_iteration"
