"""Advantage estimation and masked statistics: pure functions on ``(B, T)`` tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from textenv.errors import ShapeError


def _alone(x: torch.Tensor) -> torch.Tensor:
    return x


def check_same_shape(reference_name: str, reference: torch.Tensor, **others: torch.Tensor) -> None:
    """Raise where tensors that belong together disagree in shape.

    Raises:
        ShapeError: Naming the tensor, its shape and the expected one.
    """
    for name, tensor in others.items():
        if tensor.shape != reference.shape:
            raise ShapeError(
                f"`{name}` has shape {tuple(tensor.shape)}, expected {tuple(reference.shape)} to match "
                f"`{reference_name}`"
            )


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_values: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimates along each response.

    Args:
        rewards: Reward received after each token, shape ``(B, T)``, score units.
        values: Critic estimate before each token, shape ``(B, T)``.
        last_values: Bootstrap for truncated rows, 0 for terminated ones, shape ``(B,)``.
        action_mask: True on real response tokens, shape ``(B, T)``; rows are right-padded.
        gamma: Discount per token.
        gae_lambda: Trace decay per token.

    Returns:
        advantages, returns: Each ``(B, T)``, exactly 0 where the mask is False; ``returns = advantages + values``.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
    """
    check_same_shape("rewards", rewards, values=values, action_mask=action_mask)
    check_same_shape("rewards[:, 0]", rewards[:, 0], last_values=last_values)
    rewards = torch.where(action_mask, rewards, 0.0)
    values = torch.where(action_mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = last_values.to(values.dtype)
    trace = torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[1])):
        real = action_mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        trace = torch.where(real, delta + gamma * gae_lambda * trace, trace)
        next_value = torch.where(real, values[:, t], next_value)
        advantages[:, t] = torch.where(real, trace, 0.0)
    return advantages, advantages + values


def masked_mean(
    x: torch.Tensor, mask: torch.Tensor, *, total: Callable[[torch.Tensor], torch.Tensor] = _alone
) -> torch.Tensor:
    """Mean over the entries where the mask is True; NaN elsewhere does no harm.

    Args:
        x: Any shape.
        mask: Boolean, same shape.
        total: Adds up over processes; leave it out for one process.

    Returns:
        A scalar; 0 where the mask is True nowhere.
    """
    return total(torch.where(mask, x, 0.0).sum()) / total(mask.sum()).clamp(min=1)


def centred(
    x: torch.Tensor, mask: torch.Tensor, *, total: Callable[[torch.Tensor], torch.Tensor] = _alone
) -> torch.Tensor:
    """The masked entries minus their mean, in float64: exactly 0 where all are equal, whatever the number.

    A mean of equal numbers is a rounding away from them; what is left after subtracting it has few digits, and sums of
    those are exact.

    Args:
        x: Any shape.
        mask: True on the entries that count, same shape.
        total: Adds up over processes; leave it out for one process.

    Returns:
        The shape of ``x``, 0 where the mask is False.
    """
    left = torch.where(mask, x.double(), 0.0)
    for _ in range(2):
        left = torch.where(mask, left - masked_mean(left, mask, total=total), 0.0)
    return left


def whiten(
    x: torch.Tensor,
    mask: torch.Tensor,
    *,
    shift_mean: bool = True,
    total: Callable[[torch.Tensor], torch.Tensor] = _alone,
) -> torch.Tensor:
    """Scale the masked entries to variance 1, and shift their mean to 0 unless told not to.

    Args:
        x: Shape ``(B, T)``.
        mask: True on the entries that count, shape ``(B, T)``.
        shift_mean: False keeps the mean (rewards), True removes it (advantages).
        total: Adds up over processes; leave it out for one process.

    Returns:
        Shape ``(B, T)``, 0 where the mask is False; exactly the mean, or 0, where all entries are equal.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Ziegler et al. 2019, arXiv:1909.08593 (code: biased variance, epsilon 1e-8 inside the root).
    """
    check_same_shape("x", x, mask=mask)
    left = centred(x, mask, total=total)
    variance = masked_mean(left**2, mask, total=total)
    white = left * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        white = white + masked_mean(x.double(), mask, total=total)
    return torch.where(mask, white, 0.0).to(x.dtype)


def explained_variance(
    values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    *,
    total: Callable[[torch.Tensor], torch.Tensor] = _alone,
) -> float:
    """Share of the returns' variance that the critic explains: 1 is perfect, 0 is a constant, negative is worse.

    Args:
        values: Critic estimates, shape ``(B, T)``.
        returns: Targets, shape ``(B, T)``.
        mask: True on real tokens, shape ``(B, T)``.
        total: Adds up over processes; leave it out for one process.
    """

    def variance(x: torch.Tensor) -> float:
        return float(masked_mean((x - masked_mean(x, mask, total=total)) ** 2, mask, total=total))

    spread = variance(returns)
    return 1 - variance(returns - values) / spread if spread > 0 else 0.0
