"""What DPO minimises, and its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from reward_models.losses import bradley_terry
from textenv.errors import ConfigError


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO; defaults follow Rafailov et al. 2023, arXiv:2305.18290, appendix B, with Adam for RMSProp.

    Attributes:
        beta: Strength of the KL constraint: reward units per nat.
        learning_rate: Peak of Adam's learning rate.
        warmup_iterations: Iterations of linear warm-up.
        lr_schedule: ``"constant"``, or ``"linear"`` decay to 0 over ``total_episodes``.
        batch_size: Comparisons per optimiser step, in all processes.
        micro_batch_size: Comparisons per forward and backward pass.
        label_smoothing: Believed share of wrong labels, from 0 to below 0.5.
        max_grad_norm: Gradient clip; 10 is that of the authors' code.
        adam_eps: Adam's epsilon.
        eval_every: Iterations between evaluations on held-out comparisons; the last is evaluated too.
        checkpoint_every: Iterations between checkpoints where a run is given.
        keep_checkpoints: How many of them stay.
        seed: Order of the comparisons.

    Raises:
        ConfigError: If a value is out of its range.
    """

    beta: float = 0.1
    learning_rate: float = 1e-6
    warmup_iterations: int = 150
    lr_schedule: Literal["constant", "linear"] = "constant"
    batch_size: int = 64
    micro_batch_size: int = 16
    label_smoothing: float = 0.0
    max_grad_norm: float = 10.0
    adam_eps: float = 1e-8
    eval_every: int = 20
    checkpoint_every: int = 20
    keep_checkpoints: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("batch_size", "micro_batch_size", "eval_every", "checkpoint_every", "keep_checkpoints")
        for name in ("beta", "learning_rate", "max_grad_norm", "adam_eps", *sizes):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` must be positive and finite, got {getattr(self, name)}")
        if self.warmup_iterations < 0:
            raise ConfigError(f"`warmup_iterations` must be ≥ 0, got {self.warmup_iterations}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"`label_smoothing` must lie in [0, 0.5), got {self.label_smoothing}")
        if self.lr_schedule not in ("constant", "linear"):
            raise ConfigError(f"`lr_schedule` must be 'constant' or 'linear', got {self.lr_schedule!r}")

    def learning_rate_at(self, iteration: int, total_iterations: int) -> float:
        """Learning rate of an iteration (0-based)."""
        warm = min(1.0, (iteration + 1) / (self.warmup_iterations + 1))
        left = 1.0 if self.lr_schedule == "constant" else max(0.0, 1 - iteration / max(total_iterations, 1))
        return self.learning_rate * warm * left


class DPOLoss(NamedTuple):
    """The loss of a batch of comparisons and what one wants to know about it.

    Attributes:
        loss: Nats per comparison, the weighted mean, a scalar.
        chosen: Implicit rewards β·log(π/π_ref) of the preferred answers, shape ``(P,)``.
        rejected: Those of the others, shape ``(P,)``.
    """

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


def dpo_loss(
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    margin: torch.Tensor | float = 0.0,
    weights: torch.Tensor | None = None,
) -> DPOLoss:
    """Bradley-Terry likelihood of the labels with β·log(π/π_ref) as the reward.

    Args:
        logprobs: Of whole answers under the policy, preferred ones in column 0, nats, shape ``(P, 2)``.
        ref_logprobs: Under the reference, shape ``(P, 2)``.
        beta: Reward units per nat.
        label_smoothing: Believed share of wrong labels.
        margin: By how much the preferred answer's reward should at least be larger, a number or shape ``(P,)``.
        weights: Of the comparisons, shape ``(P,)``; None counts all alike.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, "A note on DPO with noisy
        preferences"; margin: Amini et al. 2024, arXiv:2402.10571.
    """
    rewards = beta * (logprobs - ref_logprobs)
    chosen, rejected = rewards.unbind(1)
    loss = bradley_terry(chosen, rejected, margin=margin, label_smoothing=label_smoothing, weights=weights)
    return DPOLoss(loss, chosen.detach(), rejected.detach())
