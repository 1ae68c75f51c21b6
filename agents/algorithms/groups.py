"""Several answers to one prompt: what the algorithms without a critic compare an answer with.

An algorithm's advantages are its own and stand in its module. Answers that were not scored (something cut them off) are
left out of baselines, spreads and losses: as answers worth 0 they would be the best ones wherever rewards are negative.
A group with fewer than two scored answers has nothing to compare and teaches nothing.
"""

from __future__ import annotations

import math

import torch

from agents.learning.config import LearnerConfig
from agents.learning.experience import Experience
from textenv.errors import ConfigError


def check_groups(config: LearnerConfig) -> None:
    """Make sure that answers have others to be compared with, and that whole answers are what is compared.

    Raises:
        ConfigError: If ``group_size`` is below 2 or ``gamma`` is not 1.
    """
    name = type(config).__name__
    if config.group_size < 2:
        raise ConfigError(
            f"`group_size` must be ≥ 2, got {config.group_size}: the baseline is the other answers to the same prompt, "
            f"and without them every advantage is 0; set it in `{name}`"
        )
    if config.gamma != 1.0:
        raise ConfigError(f"`gamma` must be 1, got {config.gamma}: `{name}` compares whole answers, undiscounted")


def scored_groups(experience: Experience) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the answers to each prompt and which of them count, each of shape ``(P, n)``."""
    counted = experience.counted
    counted = experience.action_mask.any(1) if counted is None else counted
    return experience.by_group(experience.sequence_rewards), experience.by_group(counted)


def above_mean(rewards: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Each reward minus the mean of its row.

    Args:
        rewards: Of the answers to each prompt, shape ``(P, n)``.
        counted: True on those that are scored, shape ``(P, n)``; None means all.

    Returns:
        Shape ``(P, n)``; exactly 0 where all that count in a row are equal, where fewer than two do, and for those that
        do not.
    """
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted
    # Below the best rather than above 0: the mean of equal numbers is a rounding away from them, the mean of 0 is not.
    best = torch.where(counted, rewards, -math.inf).amax(1, keepdim=True)
    below = torch.where(counted, rewards - best, 0.0)
    number = counted.sum(1, keepdim=True)
    return torch.where(counted & (number > 1), below - below.sum(1, keepdim=True) / number.clamp(min=1), 0.0)


def spread(per_answer: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One number per answer as the same number on each of its tokens.

    Args:
        per_answer: Shape ``(N,)``.
        mask: True on tokens that the policy chose, shape ``(N, T)``.

    Returns:
        Shape ``(N, T)``, 0 off the mask.
    """
    return torch.where(mask, per_answer[:, None], 0.0)
