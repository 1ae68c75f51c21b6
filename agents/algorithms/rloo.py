"""RLOO: REINFORCE with the mean of the other answers to the same prompt as the baseline."""

from __future__ import annotations

from dataclasses import dataclass

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
class RLOOConfig(LearnerConfig):
    """Settings of RLOO; defaults follow Ahmadian et al. 2024 (TL;DR), arXiv:2402.14740.

    Attributes:
        learning_rate: Peak of Adam's learning rate.
        group_size: Answers to each prompt, at least 2.
        kl_coef: Reward units per nat of KL against the reference.
        loss_aggregation: ``"constant"``: an answer's log-probability counts as a whole, whatever its length, which is
            what makes the gradient unbiased.
        clip_range: Of the probability ratio, for several steps per iteration; None does not clip: REINFORCE.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: PositiveFloat = 1e-6
    group_size: PositiveInt = 4
    kl_coef: NonNegativeFloat = 0.03
    loss_aggregation: Aggregation = "constant"
    clip_range: PositiveFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_groups(self)


def leave_one_out(rewards: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Each reward minus the mean of the others in its row.

    Args:
        rewards: Of the answers to each prompt, shape ``(P, n)``, n ≥ 2.
        counted: True on those that are scored, shape ``(P, n)``; None means all.

    Returns:
        Shape ``(P, n)``; the baseline of an answer does not depend on it, so the gradient stays unbiased. 0 for answers
        that do not count, or have no other to be compared with.
    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
        arXiv:2402.14740, section 3.
    """
    number = torch.tensor(rewards.shape[1]) if counted is None else counted.sum(1, keepdim=True)
    return above_mean(rewards, counted) * number / (number - 1).clamp(min=1)


def rloo_advantages(experience: Experience, config: RLOOConfig) -> Advantages:
    """The leave-one-out advantage of an answer, on each of its tokens."""
    per_answer = leave_one_out(*scored_groups(experience)).flatten()
    return Advantages(spread(per_answer, experience.action_mask))


def rloo_loss(new: PolicyOutputs, old: OldTokens, config: RLOOConfig) -> TokenLoss:
    """REINFORCE, or the clipped surrogate where a clip range is set."""
    return surrogate_loss(new, old, config, clip_range=config.clip_range)


class RLOO(Learner[RLOOConfig]):
    """REINFORCE leave-one-out on text-generation environments; see :class:`Learner`.

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    """

    config_type = RLOOConfig
    default_estimator = staticmethod(rloo_advantages)
    default_loss = staticmethod(rloo_loss)
    default_stage = "rloo"
