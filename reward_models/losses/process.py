"""Process rewards: a score per step of a response, its loss, and how steps make up the score of the whole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from reward_models.losses.reduction import same_shape, weighted_mean
from textenv.errors import ConfigError, ShapeError

Aggregation = Literal["min", "prod", "last", "mean"]


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


def aggregate_steps(step_scores: Tensor, present: Tensor, how: Aggregation = "prod") -> Tensor:
    """One probability per response from the log-odds of its steps, shape ``(B,)``.

    ``prod`` is the probability that every step is right if they are independent, ``min`` that of the weakest step,
    ``last`` that of the final one, ``mean`` the expected share of right steps.

    Args:
        step_scores: Log-odds, shape ``(B, S)``, steps in their order.
        present: True where a step is there, at least one in each row, shape ``(B, S)``.
        how: The rule.

    Raises:
        ShapeError: If the shapes disagree or a row has no step.
        ConfigError: If the rule is unknown.

    Source: Lightman et al. 2023, arXiv:2305.20050, appendix F.
    """
    same_shape(step_scores=step_scores, present=present)
    if step_scores.ndim != 2 or not bool(present.any(dim=1).all()):
        raise ShapeError(f"`step_scores` must be (B, S) with a step in each row, got {tuple(step_scores.shape)}.")
    logprobs = logsigmoid(step_scores)
    if how == "prod":
        return torch.where(present, logprobs, torch.zeros_like(logprobs)).sum(dim=1).exp()
    if how == "min":
        return torch.where(present, logprobs, torch.zeros_like(logprobs)).amin(dim=1).exp()
    if how == "mean":
        return torch.where(present, logprobs.exp(), torch.zeros_like(logprobs)).sum(dim=1) / present.sum(dim=1)
    if how == "last":
        positions = torch.arange(present.shape[1], device=present.device)
        last = torch.where(present, positions, -1).amax(dim=1)
        return logprobs.gather(1, last[:, None])[:, 0].exp()
    raise ConfigError(f"`how` must be min, prod, last or mean, got {how!r}.")
