"""Losses of lists: Plackett-Luce for rankings, softmax for the best of K, all pairs of a prompt as one element.

A list is a row of a padded matrix. `ranks` says what is known of each entry: 1, 2, … (1 is best, equal numbers are
ties), :data:`UNRANKED` (was there, but below all the ranked ones) or :data:`PADDING` (nothing is there).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reward_models.losses.pairwise import davidson_logprobs
from reward_models.losses.reduction import same_shape, weighted_mean
from textenv.errors import ShapeError

UNRANKED = 0
"""Rank of a response that lost to all the ranked ones; the order among several of them is unknown."""
PADDING = -1
"""Rank of an entry that only fills up its row."""
MAX_TIED = 12
"""Largest tie group of `plackett_luce`: its work and memory grow with 2 to this power."""


def plackett_luce(scores: Tensor, ranks: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of rankings, in nats per list.

    The best response is drawn from all of them with probabilities ``softmax(scores)``, the next from what is left, and
    so on. Unranked responses are never drawn but always there (a top-k ranking). A tie group says that its members
    were drawn next, in any order: its probability is the sum over all those orders, computed exactly.

    Args:
        scores: Shape ``(G, K)``; what padding holds is ignored.
        ranks: Whole numbers, shape ``(G, K)``, see the module.
        weights: Weight of each list, shape ``(G,)``; all 1 for None.

    Returns:
        The weighted mean, a scalar; 0 (with a gradient of 0) where there is no list.

    Raises:
        ShapeError: If the shapes disagree, or more than :data:`MAX_TIED` responses are tied.

    Source: Plackett 1975; Luce 1959; ties as sums over orders: Allison & Christakis 1994, Sociological Methodology 24,
    eq. 7.
    """
    keys, there = _sort_keys(scores, ranks)
    # remaining[g, i, j]: j is still to be drawn when i is.
    remaining = (keys[:, None, :] >= keys[:, :, None]) & there[:, None, :]
    remaining |= torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    left = torch.logsumexp(scores[:, None, :].masked_fill(~remaining, -torch.inf), dim=2)
    alone = (keys[:, None, :] == keys[:, :, None]).sum(dim=2) == 1
    losses = torch.where((ranks > 0) & alone, left - scores, torch.zeros_like(scores)).sum(dim=1)
    extra = [(row, _tied_nll(scores[row, members], scores[row, rest])) for row, members, rest in _tied(ranks)]
    if extra:
        rows = torch.tensor([row for row, _ in extra], device=scores.device)
        losses = losses.index_add(0, rows, torch.stack([nll for _, nll in extra]))
    return weighted_mean(losses, weights)


def best_of(scores: Tensor, best: Tensor, *, present: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the choice of the best among K, in nats per list; `plackett_luce` of top-1 rankings.

    Args:
        scores: Shape ``(G, K)``.
        best: Index of the best response, shape ``(G,)``.
        present: False on padding, shape ``(G, K)``; all True for None.
        weights: Weight of each list, shape ``(G,)``; all 1 for None.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 1.
    """
    if scores.ndim != 2 or best.shape != scores.shape[:1]:
        raise ShapeError(f"`scores` must be (G, K) and `best` (G,), got {tuple(scores.shape)}, {tuple(best.shape)}.")
    if present is not None:
        same_shape(scores=scores, present=present)
        scores = scores.masked_fill(~present, -torch.inf)
    picked = torch.gather(torch.log_softmax(scores, dim=1), 1, best[:, None])[:, 0]
    return weighted_mean(-picked, weights)


def ranked_pairs(
    scores: Tensor,
    ranks: Tensor,
    *,
    label_smoothing: float = 0.0,
    log_nu: Tensor | float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Bradley-Terry loss of all pairs of each list, scaled by one over their number, in nats per pair.

    A prompt with nine responses counts as much as one with two, and its 36 pairs cost nine forward passes.

    Args:
        scores: Shape ``(G, K)``; what padding holds is ignored.
        ranks: Whole numbers, shape ``(G, K)``, see the module. Two unranked responses make no pair.
        label_smoothing: As in `bradley_terry`; without effect on pairs where `log_nu` is given.
        log_nu: Tie parameter of `davidson`; None leaves tied pairs out.
        weights: Weight of each list, shape ``(G,)``; all 1 for None. Lists without a pair count 0.

    Raises:
        ShapeError: If the shapes disagree.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    keys, there = _sort_keys(scores, ranks)
    both = there[:, :, None] & there[:, None, :]
    won = both & (keys[:, :, None] < keys[:, None, :])
    scores = torch.where(there, scores, torch.zeros_like(scores))
    difference = scores[:, :, None] - scores[:, None, :]
    if log_nu is None:
        losses = (1 - label_smoothing) * softplus(-difference) + label_smoothing * softplus(difference)
        losses, counted = losses * won, won
    else:
        win, _, tie = davidson_logprobs(difference, log_nu)
        upper = torch.ones_like(won[0]).triu(1)
        tied = both & (keys[:, :, None] == keys[:, None, :]) & (ranks > 0)[:, :, None] & upper
        losses, counted = -torch.where(tied, tie, win) * (won | tied), won | tied
    pairs = counted.sum(dim=(1, 2))
    per_list = losses.sum(dim=(1, 2)) / pairs.clamp_min(1)
    counts = (pairs > 0).to(scores.dtype)
    return weighted_mean(per_list, counts if weights is None else counts * weights)


def _sort_keys(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Keys that are smaller the better (unranked after all ranks, padding last), and where something is."""
    same_shape(scores=scores, ranks=ranks)
    if scores.ndim != 2:
        raise ShapeError(f"`scores` and `ranks` must be (G, K), got {tuple(scores.shape)}.")
    last = int(ranks.max()) + 1 if ranks.numel() else 1
    keys = ranks.masked_fill(ranks == UNRANKED, last).masked_fill(ranks == PADDING, last + 1)
    return keys, ranks != PADDING


def _tied(ranks: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Tie groups that are not the end of their list: row, indices of the members, indices of what comes after.

    The last group of a full ranking holds all that is left, so its orders have probability 1 together.
    """
    for row, values in enumerate(ranks.tolist()):
        for rank in sorted({value for value in values if value > 0 and values.count(value) > 1}):
            members = [i for i, value in enumerate(values) if value == rank]
            rest = [i for i, value in enumerate(values) if value > rank or value == UNRANKED]
            if len(members) > MAX_TIED:
                raise ShapeError(
                    f"list {row} ties {len(members)} responses at rank {rank}; exact sums over orders are for at most "
                    f"{MAX_TIED}: use `ranked_pairs`, or leave the lowest unranked."
                )
            if rest:
                device = ranks.device
                yield row, torch.tensor(members, device=device), torch.tensor(rest, device=device)


def _tied_nll(members: Tensor, rest: Tensor) -> Tensor:
    """Minus the log-probability that the members are drawn first, in any order, from themselves and the rest.

    The probability that a subset A was drawn first is the sum over its last member i of the probability of A without i
    times that of drawing i then: 2^m sums of positive terms instead of m! products.
    """
    count = len(members)
    subsets = torch.arange(2**count, device=members.device)
    inside = (subsets[:, None] >> torch.arange(count, device=members.device)) & 1 == 1
    outside = torch.where(inside, -torch.inf, members)
    left = torch.logaddexp(torch.logsumexp(rest, dim=0), torch.logsumexp(outside[:-1], dim=1))
    # The whole set has nothing outside; nothing is ever drawn from it, so its entry is not needed.
    sizes = inside.sum(dim=1)
    reached = [members.new_zeros(1)]
    place = torch.zeros(2**count, dtype=torch.int64, device=members.device)
    for size in range(1, count + 1):
        sets = subsets[sizes == size]
        bits = inside[sets].nonzero()[:, 1].reshape(len(sets), size)
        before = sets[:, None] - (1 << bits)
        terms = reached[-1][place[before]] + members[bits] - left[before]
        place[sets] = torch.arange(len(sets), device=members.device)
        reached.append(torch.logsumexp(terms, dim=1))
    return -reached[-1][0]
