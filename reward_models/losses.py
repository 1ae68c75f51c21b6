"""Losses for reward models: pure functions of score tensors.

Only differences of scores matter to these losses; `centering` pins the level where that is wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from textenv.errors import ShapeError


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    *,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of the chosen responses under the Bradley-Terry model, in nats per pair.

    ``-(1 - e) log s(d) - e log s(-d)`` with ``d = chosen - rejected - margin``, s the logistic function and e the
    label smoothing (the believed share of wrong labels).

    Args:
        chosen_scores: Scores of the preferred responses, shape ``(P,)``.
        rejected_scores: Scores of the others, shape ``(P,)``.
        margin: By how much the chosen score should at least be larger, a number or shape ``(P,)``.
        label_smoothing: From 0 to below 0.5.
        weights: Weight of each pair, shape ``(P,)``, not negative; all 1 for None.

    Returns:
        The weighted mean, a scalar; 0 (with a gradient of 0) where the weights add up to 0 or there is no pair.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Bradley & Terry 1952; margin as in Touvron et al. 2023, arXiv:2307.09288, eq. 2.
    """
    if chosen_scores.shape != rejected_scores.shape or (weights is not None and weights.shape != chosen_scores.shape):
        got = f"{tuple(chosen_scores.shape)}, {tuple(rejected_scores.shape)}"
        got += "" if weights is None else f", weights {tuple(weights.shape)}"
        raise ShapeError(f"chosen and rejected scores (and weights) must have one shape, got {got}.")
    difference = chosen_scores - rejected_scores - margin
    losses = (1 - label_smoothing) * softplus(-difference) + label_smoothing * softplus(difference)
    if weights is None:
        return losses.sum() / max(losses.numel(), 1)
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def rated_pairs(
    scores: Tensor, ratings: Tensor, *, min_gap: float = 0.0, label_smoothing: float = 0.0, margin_scale: float = 0.0
) -> Tensor:
    """Bradley-Terry loss over all pairs of a batch whose ratings differ by more than `min_gap`, in nats per pair.

    The better rated of two counts as chosen. One pass over B texts gives up to B (B - 1) / 2 pairs, all with the same
    weight (InstructGPT does the same with the ranked responses of one prompt).

    Args:
        scores: Shape ``(B,)``.
        ratings: Mean ratings, shape ``(B,)``.
        min_gap: Pairs that differ by this or less are left out: their order is mostly the raters' noise.
        label_smoothing: As in `bradley_terry`.
        margin_scale: Asks for a margin of this times the difference of the ratings.

    Returns:
        The mean over the pairs, a scalar; 0 (with a gradient of 0) if there is none.

    Raises:
        ShapeError: If the shapes disagree or are not ``(B,)``.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    if scores.ndim != 1 or scores.shape != ratings.shape:
        raise ShapeError(f"`scores` and `ratings` must be (B,), got {tuple(scores.shape)}, {tuple(ratings.shape)}.")
    gaps = ratings[:, None] - ratings[None, :]
    chosen, rejected = torch.nonzero(gaps > min_gap, as_tuple=True)
    return bradley_terry(
        scores[chosen],
        scores[rejected],
        margin=margin_scale * gaps[chosen, rejected],
        label_smoothing=label_smoothing,
    )


def centering(scores: Tensor) -> Tensor:
    """Mean square of the scores: a small multiple of it keeps them around 0.

    Args:
        scores: Any shape with at least one entry.

    Source: Eisenstein et al. 2023, arXiv:2312.09244, eq. 2 (there on the sum of a pair's scores).
    """
    return scores.square().mean()
