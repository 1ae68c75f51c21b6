"""Losses of pairs: Bradley-Terry, its forms with ties (Davidson, Rao-Kupper) and with uncertainty (Thurstone).

Pure functions of score tensors. Only differences of scores matter to these losses; `centering` pins the level where
that is wanted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from reward_models.losses.reduction import same_shape, weighted_mean
from textenv.errors import ShapeError


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    *,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    confidence: Tensor | float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of the chosen responses under the Bradley-Terry model, in nats per pair.

    ``-t log s(d) - (1 - t) log s(-d)`` with ``d = chosen - rejected - margin``, s the logistic function and
    ``t = c (1 - e) + (1 - c) e`` for confidence c and label smoothing e (the believed share of wrong labels).

    Args:
        chosen_scores: Scores of the preferred responses, shape ``(P,)``.
        rejected_scores: Scores of the others, shape ``(P,)``.
        margin: By how much the chosen score should at least be larger, a number or shape ``(P,)``.
        label_smoothing: From 0 to below 0.5.
        confidence: Believed probability that the chosen one is the better one, a number or shape ``(P,)``.
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
    target = confidence * (1 - label_smoothing) + (1 - confidence) * label_smoothing
    return weighted_mean(target * softplus(-difference) + (1 - target) * softplus(difference), weights)


def davidson(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    ties: Tensor,
    log_nu: Tensor | float,
    *,
    margin: Tensor | float = 0.0,
    confidence: Tensor | float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of pairs that may be ties, in nats per pair.

    Win, loss and tie have probabilities proportional to ``exp(d / 2)``, ``exp(-d / 2)`` and ``nu``. Without ties and
    with ``nu`` towards 0 it is `bradley_terry`.

    Args:
        chosen_scores: Scores of the preferred responses (of either one in a tie), shape ``(P,)``.
        rejected_scores: Scores of the others, shape ``(P,)``.
        ties: True where neither was preferred, shape ``(P,)``.
        log_nu: Logarithm of the tie parameter, a scalar, usually learned. Equal responses tie with probability
            ``nu / (2 + nu)``.
        margin: As in `bradley_terry`; ties ignore it.
        confidence: As in `bradley_terry`; ties ignore it.
        weights: As in `bradley_terry`.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Davidson 1970, JASA 65, 317-328, eq. 2.4.
    """
    same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores, ties=ties)
    win, lose, tie = davidson_logprobs(chosen_scores - rejected_scores - _unless(ties, margin), log_nu)
    target = torch.as_tensor(confidence, dtype=win.dtype, device=win.device)
    return weighted_mean(-torch.where(ties, tie, target * win + (1 - target) * lose), weights)


def davidson_logprobs(difference: Tensor, log_nu: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of win, loss and tie for differences of scores, each of their shape."""
    tie = torch.zeros_like(difference) + log_nu
    logits = torch.stack([difference / 2, -difference / 2, tie])
    win, lose, drawn = torch.log_softmax(logits, dim=0)
    return win, lose, drawn


def rao_kupper(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    ties: Tensor,
    threshold: Tensor | float,
    *,
    confidence: Tensor | float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of pairs that may be ties, in nats per pair: a win needs a lead over a threshold.

    A win has probability ``s(d - t)``, a loss ``s(-d - t)``, a tie what is left.

    Args:
        chosen_scores: Scores of the preferred responses (of either one in a tie), shape ``(P,)``.
        rejected_scores: Scores of the others, shape ``(P,)``.
        ties: True where neither was preferred, shape ``(P,)``.
        threshold: t, positive, in units of the scores, a scalar, usually learned.
        confidence: As in `bradley_terry`; ties ignore it.
        weights: As in `bradley_terry`.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Rao & Kupper 1967, JASA 62, 194-204, eq. 2.4 (with theta = exp t).
    """
    same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores, ties=ties)
    difference = chosen_scores - rejected_scores
    threshold = torch.as_tensor(threshold, dtype=difference.dtype, device=difference.device)
    win, lose = logsigmoid(difference - threshold), logsigmoid(-difference - threshold)
    # 1 - s(d - t) - s(-d - t) = (exp(2 t) - 1) s(d - t) s(-d - t), which does not cancel.
    tie = win + lose + 2 * threshold + torch.log(-torch.expm1(-2 * threshold))
    target = torch.as_tensor(confidence, dtype=win.dtype, device=win.device)
    return weighted_mean(-torch.where(ties, tie, target * win + (1 - target) * lose), weights)


def thurstone(
    chosen_means: Tensor,
    rejected_means: Tensor,
    chosen_log_stds: Tensor,
    rejected_log_stds: Tensor,
    *,
    confidence: Tensor | float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of preferences between uncertain scores, in nats per pair.

    Each response has a Gaussian score; the chosen one is better with probability ``Phi(d / sqrt(v1 + v2))``. A model
    that predicts mean and spread says with it where people (or it) cannot tell.

    Args:
        chosen_means: Mean scores of the preferred responses, shape ``(P,)``.
        rejected_means: Mean scores of the others, shape ``(P,)``.
        chosen_log_stds: Logarithms of the standard deviations of the preferred responses' scores, shape ``(P,)``.
        rejected_log_stds: Those of the others, shape ``(P,)``.
        confidence: As in `bradley_terry`.
        weights: As in `bradley_terry`.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Thurstone 1927, case III; learned variances as in Kendall & Gal 2017, arXiv:1703.04977, eq. 8.
    """
    same_shape(
        chosen_means=chosen_means,
        rejected_means=rejected_means,
        chosen_log_stds=chosen_log_stds,
        rejected_log_stds=rejected_log_stds,
    )
    spread = torch.sqrt(torch.exp(2 * chosen_log_stds) + torch.exp(2 * rejected_log_stds))
    standardised = (chosen_means - rejected_means) / spread
    win, lose = torch.special.log_ndtr(standardised), torch.special.log_ndtr(-standardised)
    return weighted_mean(-(confidence * win + (1 - confidence) * lose), weights)


def rated_pairs(
    scores: Tensor,
    ratings: Tensor,
    *,
    min_gap: float = 0.0,
    label_smoothing: float = 0.0,
    margin_scale: float = 0.0,
    spreads: Tensor | None = None,
    weights: Tensor | None = None,
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
        spreads: Standard deviation of the single ratings of each text, shape ``(B,)``. With them the target is not 1
            but the probability that one person's rating of the better is above another person's of the worse,
            ``Phi(gap / sqrt(s1² + s2²))``.
        weights: Weight of each text, shape ``(B,)``; a pair weighs the product of its two.

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
    confidence: Tensor | float = 1.0
    if spreads is not None:
        same_shape(scores=scores, spreads=spreads)
        noise = torch.sqrt(spreads[chosen] ** 2 + spreads[rejected] ** 2).clamp_min(1e-6)
        confidence = 0.5 * (1 + torch.erf(gaps[chosen, rejected] / (noise * math.sqrt(2))))
    if weights is not None:
        same_shape(scores=scores, weights=weights)
    return bradley_terry(
        scores[chosen],
        scores[rejected],
        margin=margin_scale * gaps[chosen, rejected],
        label_smoothing=label_smoothing,
        confidence=confidence,
        weights=None if weights is None else weights[chosen] * weights[rejected],
    )


def centering(scores: Tensor) -> Tensor:
    """Mean square of the scores: a small multiple of it keeps them around 0.

    Args:
        scores: Any shape with at least one entry.

    Source: Eisenstein et al. 2023, arXiv:2312.09244, eq. 2 (there on the sum of a pair's scores).
    """
    return scores.square().mean()


def _unless(ties: Tensor, margin: Tensor | float) -> Tensor:
    """The margin where there is no tie, 0 elsewhere."""
    return torch.where(ties, 0.0, margin)
