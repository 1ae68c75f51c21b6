"""Drawing tokens from logits, with exact log-probabilities of what was drawn.

One uniform number per token, looked up in the cumulative distribution: on CPU this costs a fraction of
``torch.multinomial``, which draws one exponential per vocabulary entry. The uniforms come from a generator per
trajectory, so a trajectory does not depend on the batch around it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.sampling.params import SamplingParams


class Draw(NamedTuple):
    """Drawn tokens and their log-probabilities in nats.

    Attributes:
        tokens: Drawn ids, int64, shape ``(B,)``.
        behaviour_logprobs: Under the distribution that was drawn from (after temperature, top-k, top-p), ``(B,)``.
            Zero for greedy choices.
        logprobs: Under the policy at the sampling temperature but over the whole vocabulary, ``(B,)``.
    """

    tokens: torch.Tensor
    behaviour_logprobs: torch.Tensor
    logprobs: torch.Tensor


def trajectory_uniforms(seed: int, trajectories: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one row per trajectory, shape ``(B, steps)``.

    A row depends on the seed and the trajectory's number alone (counter-based Philox generator), so the same trajectory
    comes out whatever is sampled beside it.
    """
    keys = ((seed & 0xFFFFFFFFFFFFFFFF) << 64 | int(number) for number in trajectories)
    rows = [np.random.Generator(np.random.Philox(key=key)).random(steps) for key in keys]
    return np.stack(rows) if rows else np.zeros((0, steps))


def _keep_mask(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor | None:
    """Boolean mask ``(B, V)`` of tokens that top-k and top-p leave, or None where both are off."""
    keep = None
    if 0 < params.top_k < logits.shape[-1]:
        best = logits.topk(params.top_k, dim=-1).indices
        keep = torch.zeros_like(logits, dtype=torch.bool).scatter(1, best, True)
    if params.top_p < 1.0:
        masked = logits if keep is None else logits.masked_fill(~keep, -torch.inf)
        ordered, order = masked.softmax(-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        nucleus = torch.zeros_like(masked, dtype=torch.bool).scatter(1, order, before < params.top_p)
        keep = nucleus if keep is None else keep & nucleus
    return keep


def draw(
    logits: torch.Tensor,
    params: SamplingParams,
    uniforms: NDArray[np.float64],
    *,
    allowed: torch.Tensor | None = None,
) -> Draw:
    """Draw one token per row by inverse transform sampling.

    Args:
        logits: Unnormalised log-probabilities, shape ``(B, V)``; computed on in float32.
        params: Temperature, top-k and top-p.
        uniforms: One number in [0, 1) per row, shape ``(B,)``.
        allowed: True on tokens that may be drawn, ``(B, V)`` or ``(V,)``; None allows all.

    Returns:
        Tokens and their log-probabilities; both log-probabilities take ``allowed`` into account.
    """
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if params.temperature == 0:
        tokens = logits.argmax(-1)
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        return Draw(tokens, torch.zeros_like(logprobs), logprobs)
    if params.temperature != 1.0:
        logits = logits / params.temperature
    log_normaliser = logits.logsumexp(-1)
    keep = _keep_mask(logits, params)
    kept = logits if keep is None else logits.masked_fill(~keep, -torch.inf)
    weights = (kept - kept.amax(-1, keepdim=True)).exp()
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # float32 would round a uniform just below 1 up to 1, beyond the last token.
    u = torch.as_tensor(np.minimum(uniforms, 1 - 2.0**-24), dtype=torch.float32, device=logits.device)[:, None]
    tokens = torch.searchsorted(cumulative, u * total, right=True).clamp_(max=logits.shape[-1] - 1)
    chosen = logits.gather(1, tokens).squeeze(1)
    logprobs = chosen - log_normaliser
    behaviour = logprobs if keep is None else chosen - kept.logsumexp(-1)
    return Draw(tokens.squeeze(1), behaviour, logprobs)
