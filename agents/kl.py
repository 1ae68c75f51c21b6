"""KL divergence from a reference: estimators from samples, for tensors.

All values are in nats. ``log_ratio`` means log π(a|s) − log π_ref(a|s) on tokens that π sampled, so its mean estimates
KL(π‖π_ref). The controllers of the coefficient are those of the environment's wrapper, :mod:`textenv.wrappers.kl`.

Source: Schulman, "Approximating KL Divergence", 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


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
