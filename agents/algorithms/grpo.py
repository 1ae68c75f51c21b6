"""GRPO: advantages relative to the group of answers to one prompt; and Dr. GRPO, which takes its two biases out.

Where theory ends: dividing by the group's standard deviation weights easy and hard prompts up, and the mean over each
answer's tokens lets long bad answers off lightly; both change what is maximised (Liu et al. 2025, section 3). With two
answers per prompt, GRPO maximises how often an answer beats the policy's own
(``tests/agents/algorithms/test_grpo.py``). Dr. GRPO does neither, and its expected gradient is the policy gradient
times (n − 1)/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from agents.algorithms.groups import above_mean, check_groups, scored_groups, spread
from agents.algorithms.surrogate import surrogate_loss
from agents.formulas.losses import Aggregation
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.policy import PolicyOutputs
from textenv.settings import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class GRPOConfig(LearnerConfig):
    """Settings of GRPO; defaults follow Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, section 4.2.

    Attributes:
        learning_rate: Peak of Adam's learning rate.
        group_size: Answers to each prompt, at least 2.
        kl_coef: Weight of the KL.
        kl_placement: ``"loss"`` as in the paper; ``"reward"`` with ``kl_estimator="k1"`` has the optimum
            π_ref·exp(r/β), which the paper's placement has not.
        kl_estimator: ``"k3"``, the paper's unbiased estimator; its gradient is that of KL(π_ref‖π).
        loss_aggregation: ``"sequence_mean"``: the mean over each answer's tokens, then over answers.
        divide_by_std: Divide a group's advantages by its standard deviation.
        std_eps: Added to it, in units of reward; not from the paper (TRL's and open-r1's value).
        clip_range: Of the probability ratio, for several steps per iteration.
        clip_range_high: Another distance for above (Yu et al. 2025, arXiv:2503.14476); None takes ``clip_range``.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: PositiveFloat = 1e-6
    group_size: PositiveInt = 64
    kl_coef: NonNegativeFloat = 0.04
    kl_placement: Literal["reward", "loss"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    loss_aggregation: Aggregation = "sequence_mean"
    divide_by_std: bool = True
    std_eps: NonNegativeFloat = 1e-4
    clip_range: PositiveFloat = 0.2
    clip_range_high: PositiveFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_groups(self)


@dataclass(frozen=True)
class DrGRPOConfig(GRPOConfig):
    """Settings of Dr. GRPO; defaults follow Liu et al. 2025, arXiv:2503.20783.

    Attributes:
        group_size: Answers to each prompt, at least 2.
        kl_coef: Weight of the KL; 0 in the paper.
        kl_placement: Where it goes if it is not 0; the paper has none.
        kl_estimator: The one that leaves the gradient exact.
        loss_aggregation: ``"constant"``: divided by the length limit whatever the lengths.
        divide_by_std: Off.

    Raises:
        ConfigError: If a value is out of its range.
    """

    group_size: PositiveInt = 8
    kl_coef: NonNegativeFloat = 0.0
    kl_placement: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    loss_aggregation: Aggregation = "constant"
    divide_by_std: bool = False


def group_relative(
    rewards: torch.Tensor, counted: torch.Tensor | None = None, *, divide_by_std: bool, eps: float = 0.0
) -> torch.Tensor:
    """Each reward minus the mean of its row, in units of the row's standard deviation or not.

    Args:
        rewards: Of the answers to each prompt, shape ``(P, n)``, n ≥ 2.
        counted: True on those that are scored, shape ``(P, n)``; None means all.
        divide_by_std: Divide by the standard deviation (with n − 1) plus ``eps``.
        eps: Units of reward.

    Returns:
        Shape ``(P, n)``; exactly 0 where all answers of a row are paid alike, and for those that do not count.
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; the n − 1 is that of the common implementations.
    """
    centred = above_mean(rewards, counted)
    if not divide_by_std:
        return centred
    number = torch.tensor(rewards.shape[1]) if counted is None else counted.sum(1, keepdim=True)
    std = (centred.square().sum(1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
    return torch.where(std > 0, centred / (std + eps), 0.0)


def grpo_advantages(experience: Experience, config: GRPOConfig) -> Advantages:
    """The group-relative advantage of an answer, on each of its tokens."""
    per_answer = group_relative(*scored_groups(experience), divide_by_std=config.divide_by_std, eps=config.std_eps)
    return Advantages(spread(per_answer.flatten(), experience.action_mask))


def grpo_loss(new: PolicyOutputs, old: OldTokens, config: GRPOConfig) -> TokenLoss:
    """Clipped surrogate of each token, and the KL.

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3.
    """
    return surrogate_loss(new, old, config, clip_range=config.clip_range, clip_range_high=config.clip_range_high)


class GRPO(Learner[GRPOConfig]):
    """Group relative policy optimisation on text-generation environments; see :class:`Learner`.

    Source: Shao et al. 2024, arXiv:2402.03300.
    """

    config_type = GRPOConfig
    default_estimator = staticmethod(grpo_advantages)
    default_loss = staticmethod(grpo_loss)
    default_stage = "grpo"


class DrGRPO(GRPO):
    """GRPO without its biases; see :class:`Learner`.

    Source: Liu et al. 2025, arXiv:2503.20783.
    """

    config_type = DrGRPOConfig
    default_stage = "dr_grpo"
