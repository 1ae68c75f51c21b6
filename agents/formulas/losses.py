"""The losses of policy-gradient fine-tuning, token by token: pure functions on ``(B, T)`` tensors.

Nothing here is averaged: which tokens count, and how much, is the caller's business (see :func:`token_weights`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from agents.formulas.advantages import check_same_shape

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def clipped_policy_loss(
    ratio: torch.Tensor, advantages: torch.Tensor, *, clip_range: float, clip_range_high: float | None = None
) -> torch.Tensor:
    """PPO's clipped surrogate of each token, to minimise.

    Args:
        ratio: Probability of the taken tokens now over that when they were played, shape ``(B, T)``.
        advantages: Shape ``(B, T)``.
        clip_range: The ratio is clipped below at 1 − this, and above at 1 + this.
        clip_range_high: Another distance for above; None takes ``clip_range``.

    Returns:
        Shape ``(B, T)``. At ratio 1 its gradient is that of REINFORCE, ``−A ∇ log π``.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two distances: Yu et al. 2025 (DAPO), arXiv:2503.14476.
    """
    check_same_shape("ratio", ratio, advantages=advantages)
    high = clip_range if clip_range_high is None else clip_range_high
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + high) * advantages)


def ratio_figures(
    log_ratio: torch.Tensor, *, clip_range: float = math.inf, clip_range_high: float | None = None
) -> dict[str, torch.Tensor]:
    """What one wants to know about the ratio of each token, ``(B, T)`` each, without gradients.

    Args:
        log_ratio: Log of the probability ratio, 0 off the mask, nats, shape ``(B, T)``.
        clip_range: As in :func:`clipped_policy_loss`.
        clip_range_high: As there.

    Returns:
        ``policy/ratio``; ``policy/approx_kl``, (r − 1) − log r, whose mean estimates KL(old‖new) and which is never
        negative; ``policy/clip_fraction``, 1 where the ratio lies outside the clip range.
    """
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    high = clip_range if clip_range_high is None else clip_range_high
    return {
        "policy/approx_kl": ratio - 1 - log_ratio,
        "policy/clip_fraction": ((ratio < 1 - clip_range) | (ratio > 1 + high)).float(),
        "policy/ratio": ratio,
    }


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
