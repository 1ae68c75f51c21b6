"""KL divergence from a reference: estimators from samples, for arrays and tensors.

All values are in nats. ``log_ratio`` means log π(a|s) − log π_ref(a|s) on tokens that π sampled, so its mean estimates
KL(π‖π_ref). The controllers of the coefficient are those of the environment's wrapper, :mod:`textenv.wrappers.kl`.

An estimator can be right as a number and wrong as an objective. As a loss, differentiated through log π on tokens that
π drew and averaged over them,

* k1 gives E[∇ log π] = 0: it does nothing but add noise, so it is refused;
* k2 gives E[log(π/π_ref) ∇ log π] = ∇KL(π‖π_ref), the KL that RLHF regularises with;
* k3 gives E[(1 − π_ref/π) ∇ log π] = ∇KL(π_ref‖π), the other direction; near the reference the two agree.

A loss sees each state's KL by itself; how a choice changes the KL of later states is left out. In the reward it counts:

* k1 gives the whole gradient of the regularised objective, which is why it is the default;
* k3 counts later tokens rightly, but a token's own share is ∇KL(π‖π_ref) − ∇KL(π_ref‖π), nearly nothing near the
  reference; k2 is biased. Both are refused there, and measured where nothing is paid for the KL.

Each takes the log-ratios as an array or a tensor of any shape and gives the same shape.

Source: Schulman, "Approximating KL Divergence", 2020; the gradients: Tang & Munos 2025, arXiv:2506.09477. Each of them
is checked by enumeration in ``tests/agents/learning/test_toy_exact.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

KLEstimator = Literal["k1", "k2", "k3"]


def k1(log_ratio: Any) -> Any:
    """The log-ratio itself: unbiased, any sign."""
    return log_ratio


def k2(log_ratio: Any) -> Any:
    """Half the squared log-ratio: biased, never negative; its gradient is that of KL(π‖π_ref)."""
    return 0.5 * log_ratio**2


def k3(log_ratio: Any) -> Any:
    """exp(−d) − 1 + d for the log-ratio d: unbiased and never negative."""
    expm1 = getattr(type(log_ratio), "expm1", np.expm1)  # a tensor brings its own, so nothing here loads torch
    return expm1(-log_ratio) + log_ratio


ESTIMATORS: Mapping[str, Callable[[Any], Any]] = {"k1": k1, "k2": k2, "k3": k3}
