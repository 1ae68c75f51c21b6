"""The losses of policy-gradient fine-tuning: pure functions on ``(B, T)`` tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch

from agents.advantages import check_same_shape, masked_mean


class PolicyLoss(NamedTuple):
    """A policy loss and what one wants to know about it.

    Attributes:
        loss: Scalar to minimise.
        approx_kl: Mean of (r − 1) − log r over tokens, nats: KL(old‖new), never negative.
        clip_fraction: Share of tokens whose ratio lies outside the clip range.
        ratio: Mean probability ratio new/old over tokens; 1 before the first step.
    """

    loss: torch.Tensor
    approx_kl: torch.Tensor
    clip_fraction: torch.Tensor
    ratio: torch.Tensor


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range: float,
) -> PolicyLoss:
    """PPO's clipped surrogate, averaged over tokens.

    Args:
        logprobs: Of the taken tokens under the present policy, shape ``(B, T)``, nats.
        old_logprobs: Under the policy at rollout time, same numeric path, shape ``(B, T)``.
        advantages: Shape ``(B, T)``.
        mask: True on tokens that the policy chose, shape ``(B, T)``.
        clip_range: Half-width of the ratio's trust interval.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    check_same_shape("logprobs", logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)
    with torch.no_grad():
        approx_kl = masked_mean(ratio - 1 - log_ratio, mask)
        clip_fraction = masked_mean(((ratio - 1).abs() > clip_range).float(), mask)
        mean_ratio = masked_mean(ratio, mask)
    return PolicyLoss(-masked_mean(surrogate, mask), approx_kl, clip_fraction, mean_ratio)


def clipped_value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range_vf: float | None,
) -> torch.Tensor:
    """Half the squared error of the critic, the larger of clipped and unclipped, averaged over tokens.

    Args:
        values: Present estimates, shape ``(B, T)``.
        old_values: Estimates at rollout time, shape ``(B, T)``.
        returns: Targets, shape ``(B, T)``.
        mask: True on tokens that count, shape ``(B, T)``.
        clip_range_vf: How far an estimate may move from the old one, score units; None does not clip.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Ziegler et al. 2019, arXiv:1909.08593 (code).
    """
    check_same_shape("values", values, old_values=old_values, returns=returns, mask=mask)
    error = (values - returns) ** 2
    if clip_range_vf is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        error = torch.maximum(error, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask)
