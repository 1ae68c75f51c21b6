"""Top-k, top-p, min-p and typical sampling as limits on logits, in the order of transformers' warpers.

All four keep the tokens on one side of an edge, so equally probable tokens are kept or dropped together: what is kept
does not depend on how a sort orders equals (with bfloat16 logits there are many).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.sampling.categorical import exp, kth_largest, row_sums
from textenv.sampling.params import SamplingParams

_WIDE = 2048  # vocabularies up to this are sorted whole


def truncate_(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Set the logits of dropped tokens to −inf, in place.

    Args:
        scores: Logits after penalty, masks and temperature, less the row's largest (so that this is 0), ``(B, V)``.
        params: ``top_k``, ``top_p``, ``min_p`` and ``typical_p``.

    Returns:
        The same tensor.
    Source: ``transformers.generation.logits_process`` (``TopKLogitsWarper`` and those after it), which keep one token
    at least.
    """
    if 0 < params.top_k < scores.shape[1]:
        _drop_below(scores, kth_largest(scores, params.top_k))
    if params.top_p < 1.0:
        _drop_below(scores, _nucleus_edge(scores, params.top_p))
    if params.min_p > 0.0:
        _drop_below(scores, torch.full_like(scores[:, :1], math.log(params.min_p)))
    if params.typical_p < 1.0:
        _keep_typical(scores, params.typical_p)
    return scores


def _drop_below(scores: torch.Tensor, edge: torch.Tensor) -> None:
    """Entries below the row's edge ``(B, 1)`` become −inf."""
    if scores.device.type != "cpu" or scores.shape[1] <= _WIDE:
        scores.masked_fill_(scores < edge, -torch.inf)
        return
    for row, limit in zip(scores, edge.squeeze(1).numpy(), strict=True):  # one pass, where mask and fill are three
        torch.threshold_(row, float(np.nextafter(limit, limit.dtype.type(-np.inf))), -torch.inf)


def _nucleus_edge(scores: torch.Tensor, mass: float) -> torch.Tensor:
    """Logit of the last token of the smallest set of most probable tokens that reaches the mass, ``(B, 1)``."""
    total = row_sums(exp(scores))
    # Tokens of probability below (1 − mass) / V hold less than 1 − mass all together, so none of them is kept.
    low = (total * ((1.0 - mass) / scores.shape[1])).log()
    if scores.device.type != "cpu" or scores.shape[1] <= _WIDE:
        return -_edge(-scores, scores, low, mass * total)
    edges = np.empty(len(scores), scores.numpy().dtype)
    for row, values in enumerate(scores.numpy()):
        # Rising, for vectorised sort and exponential; a mask as index would take four times as long as `take`.
        likely = np.sort(values.take(np.flatnonzero(values >= float(low[row]) - 1e-3)))
        reached = np.cumsum(np.exp(likely)[::-1], dtype=np.float64)
        kept = min(int(np.searchsorted(reached, mass * float(total[row]))) + 1, len(likely))
        edges[row] = likely[len(likely) - kept]
    return torch.from_numpy(edges)[:, None]


def _keep_typical(scores: torch.Tensor, mass: float) -> None:
    """Keep the tokens whose information is nearest to the entropy until they reach the mass."""
    finite = scores.clamp(min=-86.0)
    weights = exp(scores)
    total = row_sums(weights)
    mean = row_sums(weights.mul_(finite)) / total
    # information − entropy = (log total − score) − (log total − mean score)
    distance = (mean.to(scores.dtype)[:, None] - scores).abs_()
    # A token of probability below exp(−2 H) is farther from the entropy than any token above exp(−H), so beyond it
    # tokens come in falling order of probability, and the argument of the nucleus holds.
    low = (total * ((1.0 - mass) / scores.shape[1])).log()
    low = torch.minimum(low, total.log() - 2.0 * (total.log() - mean))
    edge = _edge(distance, scores, low, mass * total)
    scores.masked_fill_(distance > edge, -torch.inf)


def _edge(keys: torch.Tensor, scores: torch.Tensor, low: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Smallest key such that the tokens with keys up to it have at least this mass together, ``(B, 1)``.

    Args:
        keys: What to order by, shape ``(B, V)``.
        scores: Logs of the tokens' masses, shape ``(B, V)``.
        low: Tokens with lower scores are known to lie beyond the edge, shape ``(B,)``.
        mass: Shape ``(B,)``.
    """
    if scores.device.type == "cpu" and scores.shape[1] > _WIDE:
        rows = zip(keys.numpy(), scores.numpy(), low.numpy() - 1e-3, mass.numpy(), strict=True)
        return torch.from_numpy(np.array([_edge_of_row(*row) for row in rows], keys.numpy().dtype))[:, None]
    ordered, order = keys.sort(-1)
    reached = scores.double().exp().gather(1, order).cumsum(-1)
    last = (reached < mass[:, None]).sum(-1, keepdim=True).clamp_(max=keys.shape[1] - 1)
    return ordered.gather(1, last)


def _edge_of_row(keys: NDArray[np.floating], scores: NDArray[np.floating], low: float, mass: float) -> float:
    likely = np.flatnonzero(scores >= low)
    keys = keys.take(likely)
    order = keys.argsort()
    reached = np.cumsum(np.exp(scores.take(likely)).take(order), dtype=np.float64)
    return float(keys[order[min(int(np.searchsorted(reached, mass)), len(order) - 1)]])
