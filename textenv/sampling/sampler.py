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

from textenv.errors import ConfigError, ShapeError
from textenv.kernels import Kernels, kernels
from textenv.sampling.categorical import compute_dtype, exp, exp_, first_largest, look_up, row_chunks, row_sums
from textenv.sampling.params import SamplingParams
from textenv.sampling.processors import History, Processor
from textenv.sampling.truncation import truncate_

_COMPILED_FROM = 1024  # vocabulary


class Draw(NamedTuple):
    """Drawn tokens and their log-probabilities in nats.

    Attributes:
        tokens: Drawn ids, int64, shape ``(B,)``.
        behaviour_logprobs: Under the distribution that was drawn from (after penalty, masks, temperature and
            truncation), float64, ``(B,)``. Zero for greedy choices.
        logprobs: Under the policy itself: temperature 1, the whole vocabulary, nothing masked; float64, ``(B,)``.
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


def draw(
    logits: torch.Tensor,
    params: SamplingParams,
    uniforms: NDArray[np.float64] | torch.Tensor,
    *,
    allowed: torch.Tensor | None = None,
    history: History | None = None,
) -> Draw:
    """Draw one token per row by inverse transform sampling.

    Args:
        logits: Unnormalised log-probabilities of the policy, shape ``(B, V)``; float64 is computed on as it is, all
            else in float32 with sums in float64.
        params: What is done to them, see :class:`SamplingParams`.
        uniforms: One number in [0, 1) per row, shape ``(B,)``.
        allowed: True on tokens that may be drawn, ``(B, V)`` or ``(V,)``; None allows all.
        history: Tokens of prompt and answer, right-padded, ``(B, L)``, and their lengths ``(B,)``; needed for a
            repetition penalty.

    Returns:
        Tokens and their log-probabilities; a token of probability zero is never drawn.

    Raises:
        ConfigError: If no token of a row may be drawn, logits are NaN, or a penalty has no history.
        ShapeError: If the history does not fit.
    """
    chosen = _draw_rows(logits, params, uniforms, Processor(params, allowed, history, logits.shape))
    good = chosen.behaviour_logprobs.isfinite() & chosen.logprobs.isfinite()
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise ConfigError(
            f"row {row} has no token that can be drawn: its logits are NaN (look at the model's weights) or every "
            "token is masked (look at `allowed`, `allow_tokens` and `deny_tokens`)"
        )
    return chosen


def _draw_rows(
    logits: torch.Tensor,
    params: SamplingParams,
    uniforms: NDArray[np.float64] | torch.Tensor,
    processor: Processor,
) -> Draw:
    """Draw a few rows at a time: each step of the way is a pass over what the cache holds already."""
    count, vocabulary = logits.shape
    points = _points(uniforms, logits)
    tempered_only = params.stochastic and not processor.active and not params.truncates
    compiled = _compiled(logits) if tempered_only else None
    if compiled is not None:
        return _compiled_draw(compiled, logits, points.contiguous(), params.temperature)
    plain = tempered_only and params.temperature == 1.0
    tokens = torch.empty(count, dtype=torch.long, device=logits.device)
    tops, totals, normalisers = torch.empty(3, count, dtype=torch.float64, device=logits.device)
    chunks = row_chunks(logits)
    buffer = torch.empty(chunks[0].stop, vocabulary, dtype=compute_dtype(logits), device=logits.device)
    for rows in chunks:
        work = buffer[: rows.stop - rows.start].copy_(logits[rows])
        top = work.amax(-1, keepdim=True)
        if processor.active:
            normalisers[rows] = top.squeeze(1).double() + row_sums(exp_(work - top)).log()
            processor.apply_(work, rows)
            top = work.amax(-1, keepdim=True)
        tops[rows] = top.squeeze(1)
        work.sub_(top)
        if not (plain or processor.active):
            normalisers[rows] = tops[rows] + row_sums(exp(work)).log()
        if not params.stochastic:
            tokens[rows] = first_largest(work)
            continue
        if params.temperature != 1.0:
            work.mul_(1.0 / params.temperature)
        if params.truncates:
            truncate_(work, params)
        tokens[rows], totals[rows] = look_up(exp_(work), points[rows])
    drawn = logits.gather(1, tokens[:, None]).squeeze(1)
    if not params.stochastic:
        return Draw(tokens, tops * 0.0, drawn.double() - normalisers)  # NaN where there was nothing to choose from
    score = processor.at(drawn.to(buffer.dtype), tokens).double()
    behaviour = (score - tops) / params.temperature - totals.log()
    return Draw(tokens, behaviour, behaviour if plain else drawn.double() - normalisers)


def _points(uniforms: NDArray[np.float64] | torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The uniform numbers, float64, ``(B, 1)``."""
    if tuple(uniforms.shape) != (len(logits),):
        raise ShapeError(f"`uniforms` has shape {tuple(uniforms.shape)}, expected ({len(logits)},), one per row")
    if isinstance(uniforms, np.ndarray) and not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ConfigError("`uniforms` must lie in [0, 1)")
    return torch.as_tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]


def _compiled(logits: torch.Tensor) -> Kernels | None:
    """The compiled draw where it applies and pays: long rows of float32 or bfloat16 on a CPU."""
    fits = logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16) and logits.stride(1) == 1
    return kernels() if fits and logits.shape[1] >= _COMPILED_FROM else None


def _compiled_draw(compiled: Kernels, logits: torch.Tensor, points: torch.Tensor, temperature: float) -> Draw:
    drawn = compiled.draw(logits, points, temperature)
    above = logits.gather(1, drawn.tokens[:, None]).squeeze(1).double() - drawn.tops
    behaviour = above / temperature - drawn.totals.log()
    return Draw(drawn.tokens, behaviour, behaviour if temperature == 1.0 else above - drawn.plain_totals.log())
