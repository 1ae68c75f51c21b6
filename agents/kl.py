"""KL divergence from a reference: estimators from samples, and controllers of its coefficient.

All values are in nats. ``log_ratio`` means log π(a|s) − log π_ref(a|s) on tokens that π sampled, so its mean estimates
KL(π‖π_ref). Source of the estimators: Schulman, "Approximating KL Divergence", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from textenv.errors import ConfigError

KLEstimator = Literal["k1", "k2", "k3"]


def k1(log_ratio: torch.Tensor) -> torch.Tensor:
    """The log-ratio itself: unbiased, any sign. Any shape in, same shape out."""
    return log_ratio


def k2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Half the squared log-ratio: biased, never negative; its gradient is that of KL(π‖π_ref). Any shape."""
    return 0.5 * log_ratio**2


def k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp(−d) − 1 + d for the log-ratio d: unbiased and never negative. Any shape in, same shape out."""
    return torch.expm1(-log_ratio) + log_ratio


ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


@dataclass
class FixedKL:
    """A KL coefficient that stays.

    Attributes:
        kl_coef: Reward units per nat.
    """

    kl_coef: float

    def update(self, kl_per_sequence: float, episodes: int) -> None:
        """Does nothing."""


@dataclass
class AdaptiveKL:
    """Proportional controller that keeps the KL near a target.

    Attributes:
        kl_coef: Present coefficient, reward units per nat.
        target: Wanted KL in nats per answer.
        horizon: Episodes over which the coefficient may change by a factor of about e^0.2.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """

    kl_coef: float
    target: float
    horizon: int = 10_000

    def __post_init__(self) -> None:
        if self.target <= 0 or self.horizon <= 0:
            raise ConfigError(f"`target` and `horizon` must be positive, got {self.target} and {self.horizon}")

    def update(self, kl_per_sequence: float, episodes: int) -> None:
        """Raise or lower the coefficient.

        Args:
            kl_per_sequence: Measured KL in nats per answer (mean over the batch).
            episodes: Episodes in the batch.
        """
        error = min(max(kl_per_sequence / self.target - 1, -0.2), 0.2)
        self.kl_coef *= 1 + error * episodes / self.horizon


KLController = FixedKL | AdaptiveKL
