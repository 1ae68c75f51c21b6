"""The loss of a token as the algorithms without a critic write it, and the penalties that every algorithm may add."""

from __future__ import annotations

import math

import torch

from agents.formulas.losses import clipped_policy_loss, ratio_figures
from agents.learning.config import LearnerConfig
from agents.learning.experience import OldTokens, TokenLoss
from agents.policy import PolicyOutputs
from textenv.kl import ESTIMATORS


def surrogate_loss(
    new: PolicyOutputs,
    old: OldTokens,
    config: LearnerConfig,
    *,
    clip_range: float | None,
    clip_range_high: float | None = None,
) -> TokenLoss:
    """Probability ratio times advantage of each token, with the penalties of the configuration.

    Args:
        new: The policy's scores now.
        old: The same tokens at rollout time.
        config: Entropy bonus and KL in the loss.
        clip_range: The ratio is clipped at 1 ± this; None does not clip it.
        clip_range_high: Another distance for above; None takes ``clip_range``.
    """
    width = math.inf if clip_range is None else clip_range
    log_ratio = torch.where(old.counted_mask, new.logprobs - old.logprobs, 0.0)
    ratio = log_ratio.exp()
    policy = clipped_policy_loss(ratio, old.advantages, clip_range=width, clip_range_high=clip_range_high)
    figures = ratio_figures(log_ratio, clip_range=width, clip_range_high=clip_range_high)
    return TokenLoss(old.importance * policy + penalties(new, old, config), {"loss/policy": policy, **figures})


def likelihood_loss(new: PolicyOutputs, old: OldTokens, config: LearnerConfig) -> TokenLoss:
    """−A·log π of each token, the loss of REINFORCE, with the penalties of the configuration.

    Args:
        new: The policy's scores now.
        old: The same tokens at rollout time.
        config: Entropy bonus and KL in the loss.
    """
    policy = -old.advantages * new.logprobs
    figures = ratio_figures(torch.where(old.counted_mask, new.logprobs - old.logprobs, 0.0))
    return TokenLoss(old.importance * policy + penalties(new, old, config), {"loss/policy": policy, **figures})


def penalties(new: PolicyOutputs, old: OldTokens, config: LearnerConfig) -> torch.Tensor:
    """What each token adds to a loss beside its advantage, ``(B, T)``: the entropy bonus, and the KL if it is there.

    Args:
        new: The policy's scores now.
        old: The same tokens at rollout time.
        config: Entropy bonus and KL in the loss.
    """
    total = -config.ent_coef * new.entropy
    if config.kl_placement == "loss":
        total = total + old.kl_coef * ESTIMATORS[config.kl_estimator](new.logprobs - old.ref_logprobs)
    return total
