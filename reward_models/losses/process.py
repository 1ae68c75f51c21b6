"""Process rewards: a score per step of a response, and its loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reward_models.losses.reduction import same_shape, weighted_mean


def step_bce(step_scores: Tensor, labels: Tensor, known: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of right and wrong steps, in nats per step; the steps of a response share its weight.

    Args:
        step_scores: Log-odds that the step is right, shape ``(B, S)``; what is not known is ignored.
        labels: Probability that the step is right, shape ``(B, S)``.
        known: True where a step is there and has a label, shape ``(B, S)``.
        weights: Weight of each response, shape ``(B,)``; all 1 for None.

    Returns:
        The weighted mean over responses of the mean over their known steps, a scalar.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Lightman et al. 2023, arXiv:2305.20050, section 2.6 (there on the last token of each step).
    """
    same_shape(step_scores=step_scores, labels=labels, known=known)
    scores = torch.where(known, step_scores, torch.zeros_like(step_scores))
    targets = torch.where(known, labels, torch.zeros_like(labels))
    losses = (targets * softplus(-scores) + (1 - targets) * softplus(scores)) * known
    counts = known.sum(dim=1)
    any_known = (counts > 0).to(scores.dtype)
    per_response = losses.sum(dim=1) / counts.clamp_min(1)
    return weighted_mean(per_response, any_known if weights is None else any_known * weights)
