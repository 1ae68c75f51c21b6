"""Losses of ratings: plain regression, regression with a predicted spread, and ordinal regression for Likert scales."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from reward_models.losses.reduction import same_shape, weighted_mean
from textenv.errors import ShapeError


def squared_error(scores: Tensor, ratings: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of scores and ratings, in squared units of the ratings.

    Args:
        scores: Shape ``(B,)``.
        ratings: Shape ``(B,)``.
        weights: Weight of each rating, shape ``(B,)``; all 1 for None.

    Raises:
        ShapeError: If the shapes disagree.
    """
    same_shape(scores=scores, ratings=ratings)
    return weighted_mean((scores - ratings).square(), weights)


def gaussian_nll(
    means: Tensor,
    log_stds: Tensor,
    ratings: Tensor,
    *,
    counts: Tensor | float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of ratings under a Gaussian whose spread is predicted too, in nats per label.

    Args:
        means: Predicted mean ratings, shape ``(B,)``.
        log_stds: Logarithm of the predicted standard deviation of a single rating, shape ``(B,)``.
        ratings: Shape ``(B,)``.
        counts: How many single ratings each is the mean of (its variance is that much smaller), a number or ``(B,)``.
        weights: Weight of each label, shape ``(B,)``; all 1 for None.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Kendall & Gal 2017, arXiv:1703.04977, eq. 5 (with the constant kept: it is a likelihood).
    """
    same_shape(means=means, log_stds=log_stds, ratings=ratings)
    log_std = log_stds - 0.5 * torch.log(torch.as_tensor(counts, dtype=means.dtype, device=means.device))
    standardised = (ratings - means) * torch.exp(-log_std)
    return weighted_mean(0.5 * standardised.square() + log_std + 0.5 * math.log(2 * math.pi), weights)


def ordinal(scores: Tensor, categories: Tensor, cutpoints: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of categories under the cumulative link model, in nats per label.

    ``P(category <= k) = s(c_k - score)``: a rater's category tells between which cutpoints the score with logistic
    noise fell. Unlike regression it does not take the steps of a scale for equally wide, nor its ends for numbers.

    Args:
        scores: Shape ``(B,)``.
        categories: Whole numbers from 0 to C - 1, shape ``(B,)``.
        cutpoints: Increasing, shape ``(C - 1,)``; see `increasing`.
        weights: Weight of each label, shape ``(B,)``; all 1 for None.

    Raises:
        ShapeError: If the shapes disagree or a category has no place among the cutpoints.

    Source: McCullagh 1980, JRSS B 42, eq. 1.1 (proportional odds).
    """
    return weighted_mean(-ordinal_logprobs(scores, categories, cutpoints), weights)


def ordinal_logprobs(scores: Tensor, categories: Tensor, cutpoints: Tensor) -> Tensor:
    """Log-probability of each category given its score, shape ``(B,)``; arguments and errors as in `ordinal`."""
    same_shape(scores=scores, categories=categories)
    last = len(cutpoints)
    if categories.numel() and not 0 <= int(categories.min()) <= int(categories.max()) <= last:
        found = f"{int(categories.min())} to {int(categories.max())}"
        raise ShapeError(f"`categories` must be from 0 to {last} for {last} cutpoints, got {found}.")
    upper = cutpoints[categories.clamp_max(last - 1)] - scores
    lower = cutpoints[(categories - 1).clamp_min(0)] - scores
    at_bottom, at_top = categories == 0, categories == last
    # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), which keeps its digits far out.
    width = torch.where(at_bottom | at_top, torch.ones_like(scores), upper - lower)
    middle = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
    return torch.where(at_bottom, logsigmoid(upper), torch.where(at_top, logsigmoid(-lower), middle))


def increasing(raw: Tensor) -> Tensor:
    """Any numbers as increasing ones: the first, then steps of softplus of the others; shape ``(C - 1,)`` both."""
    return torch.cumsum(torch.cat([raw[:1], softplus(raw[1:])]), dim=0)
