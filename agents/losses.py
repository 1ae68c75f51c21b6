"""The losses of policy-gradient fine-tuning, token by token: pure functions on ``(B, T)`` tensors.

Nothing here is averaged: which tokens count, and how much, is the caller's business (see :func:`token_weights`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from agents.advantages import check_same_shape

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


class PolicyLoss(NamedTuple):
    """A policy loss and what one wants to know about it; each ``(B, T)``.

    Attributes:
        loss: To minimise.
        approx_kl: (r − 1) − log r, nats: its mean estimates KL(old‖new), and it is never negative.
        clipped: 1.0 where the ratio lies outside the clip range.
        ratio: Probability ratio new/old; 1 before the first step.
    """

    loss: torch.Tensor
    approx_kl: torch.Tensor
    clipped: torch.Tensor
    ratio: torch.Tensor


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate of each token.

    Args:
        logprobs: Of the taken tokens under the present policy, shape ``(B, T)``, nats.
        old_logprobs: Under the policy at rollout time, same numeric path, shape ``(B, T)``.
        advantages: Shape ``(B, T)``.
        mask: True on tokens that the policy chose, shape ``(B, T)``; elsewhere the ratio is 1.
        clip_range: The ratio is clipped below at 1 − this, and above at 1 + this.
        clip_range_high: Another distance for above; None takes ``clip_range``.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two distances: Yu et al. 2025 (DAPO), arXiv:2503.14476.
    """
    check_same_shape("logprobs", logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    high = clip_range if clip_range_high is None else clip_range_high
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + high) * advantages)
    fixed = ratio.detach()
    outside = (fixed < 1 - clip_range) | (fixed > 1 + high)
    return PolicyLoss(-surrogate, fixed - 1 - log_ratio.detach(), outside.float(), fixed)


def clipped_value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    *,
    clip_range_vf: float | None,
) -> torch.Tensor:
    """Half the squared error of the critic before each token, the larger of clipped and unclipped, ``(B, T)``.

    Args:
        values: Present estimates, shape ``(B, T)``.
        old_values: Estimates at rollout time, shape ``(B, T)``.
        returns: Targets, shape ``(B, T)``.
        clip_range_vf: How far an estimate may move from the old one, score units; None does not clip.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Ziegler et al. 2019, arXiv:1909.08593 (code).
    """
    check_same_shape("values", values, old_values=old_values, returns=returns)
    error = (values - returns) ** 2
    if clip_range_vf is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        error = torch.maximum(error, (clipped - returns) ** 2)
    return 0.5 * error


def token_weights(
    mask: torch.Tensor, aggregation: Aggregation, *, tokens: float, rows: float, max_tokens: int
) -> torch.Tensor:
    """How much each token counts in a minibatch's loss, shape ``(B, T)``, 0 off the mask.

    Args:
        mask: True on tokens that count, shape ``(B, T)``; part of the minibatch or all of it.
        aggregation: ``"token_mean"``: every token of the minibatch alike (PPO); ``"sequence_mean"``: every answer
            alike, so that tokens of long ones count less (GRPO); ``"constant"``: divided by the same number whatever
            the lengths (Dr. GRPO, arXiv:2503.20783).
        tokens: Tokens that count in the whole minibatch.
        rows: Answers in the whole minibatch.
        max_tokens: Length limit of an answer.
    """
    if aggregation == "token_mean":
        return mask / tokens
    if aggregation == "sequence_mean":
        return mask / (mask.sum(1, keepdim=True).clamp(min=1) * rows)
    return mask / (rows * max_tokens)
