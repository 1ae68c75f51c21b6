"""Log-probabilities and entropies of given tokens from hidden states, a part of the vocabulary's logits at a time.

The usual chain of operators keeps several tensors of (tokens × vocabulary) for the backward pass, and on CPU their
traffic costs as much as the products. Here a chunk of logits exists while it is looked at: the forward pass keeps two
numbers a token, the backward pass computes the logits again and overwrites them with their gradient, in their own type
(the method of Cut Cross-Entropy, Wijmans et al. 2024, arXiv:2411.09009, and of the Liger kernels, without filtering).
A cross-entropy knows the slope of every token's loss beforehand, so its gradient is made on the way forward and no
logit is computed twice (Liger kernels, Hsu et al. 2024, arXiv:2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad
from torch.utils.checkpoint import checkpoint

from textenv.kernels import Kernels, RowLogprobs, kernels
from textenv.mixed_precision import round_up
from textenv.sampling.models import OutputHead

_CHUNK_BYTES = 64_000_000  # of logits held at once
_ROWS = 128  # a chunk's size is a multiple: the CPU's kernels are compiled per shape


class TokenLogprobs(NamedTuple):
    """Log-probabilities of given tokens, and the entropy of the distributions they come from.

    Attributes:
        logprobs: Nats, at least float32, shape ``(N,)``.
        entropy: Nats, at least float32, shape ``(N,)``; zeros where not asked for.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor


def token_logprobs(
    head: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab_size: int | None = None,
    temperature: float = 1.0,
    allowed: NDArray[np.uint8] | None = None,
    entropy: bool = False,
) -> TokenLogprobs:
    """Log-probabilities of tokens from hidden states, in chunks, so that ``(N, V)`` never exists as a whole.

    Args:
        head: ``(·, D) -> (·, V)``: a model's :func:`textenv.sampling.models.output_head`, or any other.
        hidden: Shape ``(N, D)``.
        targets: Token ids, shape ``(N,)``.
        vocab_size: Ids that exist; a head padded beyond them is cut. None takes the whole head.
        temperature: Divides the logits.
        allowed: Bit-packed masks of allowed tokens, uint8, shape ``(N, ceil(V / 8))``; None allows all.
        entropy: Also compute the entropy of each distribution; zeros otherwise.
    """
    head, hidden = _simplest(head, hidden)
    vocabulary = vocab_size or _width(head)
    # The same with and without gradients: in bfloat16 log-probs depend on the chunk's size in their last digits.
    size = _chunk_size(vocabulary, hidden.dtype)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        masks = None if allowed is None else _unpack(allowed[rows], vocabulary, hidden.device)
        if _is_plain(head, hidden):
            chunk = _Logprobs.apply(
                hidden[rows], head.weight, head.bias, targets[rows], masks, vocabulary, temperature, entropy
            )
        else:
            arguments = (head, hidden[rows], targets[rows], masks, vocabulary, temperature, entropy)
            recompute = len(hidden) > size and torch.is_grad_enabled()
            chunk = checkpoint(_through, *arguments, use_reentrant=False) if recompute else _through(*arguments)
        parts.append(chunk)  # type: ignore[arg-type]  # apply and checkpoint are not typed
    return TokenLogprobs(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def cross_entropy(
    head: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted sum of the negative log-probabilities of tokens, nats, a scalar of at least float32.

    Args:
        head: As in :func:`token_logprobs`.
        hidden: Shape ``(S, D)``.
        targets: Token ids, shape ``(N,)``.
        weights: Of each token in the sum, shape ``(N,)``; they get no gradient.
        rows: Which hidden state predicts each token, int64, shape ``(N,)``; every state predicts at least one. None:
            each its own, N = S.
    """
    head, hidden = _simplest(head, hidden)
    plain = _is_plain(head, hidden)
    # In bfloat16 a state's gradient would be rounded after each of its tokens.
    if rows is not None and not (plain and hidden.dtype in (torch.float32, torch.float64)):
        hidden, rows = hidden[rows], None
    if not plain:
        return -(token_logprobs(head, hidden, targets).logprobs * weights).sum()
    wanted = _Targets.of_rows(len(hidden), targets, weights, rows)
    return _CrossEntropy.apply(hidden, head.weight, head.bias, wanted, torch.is_grad_enabled())  # type: ignore[return-value]  # apply is not typed


@dataclass(frozen=True)
class _Targets:
    """Tokens that hidden states predict: a first one each, which the kernels know, and what others there are.

    Attributes:
        first: Ids, shape ``(S,)``.
        weights: Of all targets of a state together, shape ``(S,)``.
        rows: States of the other targets, shape ``(E,)``.
        others: Their ids, shape ``(E,)``.
        other_weights: Shape ``(E,)``.
    """

    first: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor
    others: torch.Tensor
    other_weights: torch.Tensor

    @classmethod
    def of_rows(cls, states: int, targets: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor | None) -> _Targets:
        if rows is None:
            return cls(targets, weights, targets[:0], targets[:0], weights[:0])
        numbers = torch.arange(len(rows), device=rows.device)
        first = numbers.new_zeros(states).scatter_reduce_(0, rows, numbers, "amin", include_self=False)
        other = first[rows] != numbers
        together = weights.new_zeros(states).index_add_(0, rows, weights)
        return cls(targets[first], together, rows[other], targets[other], weights[other])

    def part(self, start: int, end: int) -> _Targets:
        """Those of some of the states."""
        inside = (self.rows >= start) & (self.rows < end)
        kept = (self.rows[inside] - start, self.others[inside], self.other_weights[inside])
        return _Targets(self.first[start:end], self.weights[start:end], *kept)


def _chunk_size(vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens whose logits are held at once."""
    size = max(1, _CHUNK_BYTES // dtype.itemsize // vocabulary)
    return size // _ROWS * _ROWS or size


def _unpack(allowed: NDArray[np.uint8], vocabulary: int, device: torch.device) -> torch.Tensor:
    bits = np.unpackbits(allowed, axis=1, count=vocabulary)
    return torch.as_tensor(bits.astype(bool), device=device)


def _simplest(head: Any, hidden: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The output embedding alone, and what it reads, where nothing comes after it."""
    if isinstance(head, OutputHead) and head.cap is None and head.bias is None:
        return head.embedding, head.scaled(hidden)
    return head, hidden


def _width(head: Any) -> int:
    return (head.embedding if isinstance(head, OutputHead) else head).weight.shape[0]


def _is_plain(head: Any, hidden: torch.Tensor) -> bool:
    """Whether the head is one product with a weight that is all here: no adapter, no shards, no hooks."""
    return (
        type(head) is torch.nn.Linear and type(head.weight) is torch.nn.Parameter and hidden.dtype == head.weight.dtype
    )


class _Logprobs(torch.autograd.Function):
    """Log-probs and entropies of a chunk; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        allowed: torch.Tensor | None,
        vocabulary: int,
        temperature: float,
        entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _logits(hidden, weight, bias, allowed, vocabulary)
        compiled = _compiled(logits)
        if compiled is not None:
            rows = compiled.token_logprobs(logits, targets, temperature, entropy=entropy)
        else:
            rows = _row_logprobs(logits, targets, temperature, entropy=entropy)
        ctx.save_for_backward(hidden, weight, bias, targets, allowed, *rows[1:])
        ctx.vocabulary, ctx.temperature = vocabulary, temperature
        spread = torch.zeros_like(rows.logprobs) if rows.entropy is None else rows.entropy
        return rows.logprobs, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprob: torch.Tensor, by_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # @once_differentiable
        hidden, weight, bias, targets, allowed, tops, totals, entropy = ctx.saved_tensors
        rows = RowLogprobs(tops, tops, totals, entropy)
        logits = _logits(hidden, weight, bias, allowed, ctx.vocabulary)
        compiled = _compiled(logits)
        step = compiled.logprob_gradient_ if compiled is not None else _logprob_gradient_
        entropy_slope = None if entropy is None else by_entropy.contiguous()
        step(logits, targets, rows, ctx.temperature, by_logprob.contiguous(), entropy_slope)
        slopes = logits
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        by_weight = None
        if needs_weight:
            by_weight = torch.empty_like(weight)
            torch.mm(slopes.t(), hidden, out=by_weight[: ctx.vocabulary])
            by_weight[ctx.vocabulary :] = 0
        by_bias = None
        if bias is not None and needs_bias:
            by_bias = torch.zeros_like(bias)
            by_bias[: ctx.vocabulary] = slopes.sum(0)
        by_hidden = slopes @ weight[: ctx.vocabulary] if needs_hidden else None
        return by_hidden, by_weight, by_bias, None, None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of losses whose gradients are made with it; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: _Targets,
        training: bool,
    ) -> torch.Tensor:
        needs = [training and needed for needed in ctx.needs_input_grad[:3]]
        by_hidden = torch.empty_like(hidden) if needs[0] else None
        by_weight = torch.zeros_like(weight) if needs[1] else None
        by_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        size = _chunk_size(weight.shape[0], hidden.dtype)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), size):
            rows = slice(start, min(start + size, len(hidden)))
            logits = _logits(hidden[rows], weight, bias, None, weight.shape[0])
            loss, logits = _loss_and_slopes(logits, targets.part(rows.start, rows.stop), slopes=any(needs))
            total += loss
            if by_hidden is not None:
                torch.mm(logits, weight, out=by_hidden[rows])
            if by_weight is not None:
                by_weight.addmm_(logits.t(), hidden[rows])
            if by_bias is not None:
                by_bias += logits.sum(0)
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        return total.to(torch.promote_types(hidden.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # @once_differentiable
        (by_loss,) = grad_outputs
        slopes = (None if each is None else each * by_loss.to(each.dtype) for each in ctx.saved_tensors)
        return *slopes, None, None


def _loss_and_slopes(logits: torch.Tensor, targets: _Targets, *, slopes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted losses of a chunk, a float64 scalar, and the logits, with ``slopes`` overwritten by their gradient."""
    compiled = _compiled(logits)
    logprobs_of = compiled.token_logprobs if compiled is not None else _row_logprobs
    rows = logprobs_of(logits, targets.first, 1.0, entropy=False)
    total = -(rows.logprobs.double() * targets.weights.double()).sum()
    # Other targets of a state are counted as its first one up to here.
    firsts = targets.first[targets.rows]
    gaps = logits[targets.rows, firsts].double() - logits[targets.rows, targets.others].double()
    total += (gaps * targets.other_weights.double()).sum()
    if slopes:
        step = compiled.logprob_gradient_ if compiled is not None else _logprob_gradient_
        step(logits, targets.first, rows, 1.0, -targets.weights.to(rows.logprobs.dtype), None)
        moved = targets.other_weights.to(logits.dtype)
        logits.index_put_((targets.rows, firsts), moved, accumulate=True)
        logits.index_put_((targets.rows, targets.others), -moved, accumulate=True)
    return total, logits


def _logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    allowed: torch.Tensor | None,
    vocabulary: int,
) -> torch.Tensor:
    padded = pad(hidden, (0, 0, 0, round_up(len(hidden), _ROWS) - len(hidden)))
    logits = linear(padded, weight, bias)[: len(hidden), :vocabulary]
    return logits if allowed is None else logits.masked_fill_(~allowed, -torch.inf)


def _compiled(logits: torch.Tensor) -> Kernels | None:
    fits = logits.device.type == "cpu" and logits.dtype in (torch.bfloat16, torch.float32)
    return kernels() if fits else None


def _row_logprobs(logits: torch.Tensor, targets: torch.Tensor, temperature: float, *, entropy: bool) -> RowLogprobs:
    """`Kernels.token_logprobs` in torch; float64 stays float64."""
    tops = logits.amax(-1).to(torch.promote_types(logits.dtype, torch.float32))
    x = (logits - tops[:, None]) / temperature
    e = x.exp()
    totals = e.sum(-1)
    logprobs = x.gather(1, targets[:, None]).squeeze(1) - totals.log()
    moments = (e * x.masked_fill_(e == 0, 0.0)).sum(-1) if entropy else None
    return RowLogprobs(logprobs, tops, totals, None if moments is None else totals.log() - moments / totals)


def _logprob_gradient_(
    logits: torch.Tensor,
    targets: torch.Tensor,
    rows: RowLogprobs,
    temperature: float,
    by_logprob: torch.Tensor,
    by_entropy: torch.Tensor | None,
) -> None:
    """`Kernels.logprob_gradient_` in torch."""
    x = (logits - rows.tops[:, None]) / temperature
    p = x.exp() / rows.totals[:, None]
    slopes = -by_logprob[:, None] * p
    slopes[torch.arange(len(slopes), device=slopes.device), targets] += by_logprob
    if by_entropy is not None and rows.entropy is not None:
        surprise = (x - rows.totals.log()[:, None] + rows.entropy[:, None]).masked_fill_(p == 0, 0.0)
        slopes -= by_entropy[:, None] * p * surprise
    logits.copy_(slopes / temperature)


def _through(
    head: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    allowed: torch.Tensor | None,
    vocabulary: int,
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through the head's own call and autograd, for heads that are more than one product."""
    padded = pad(hidden, (0, 0, 0, round_up(len(hidden), _ROWS) - len(hidden)))
    logits = head(padded)[: len(hidden), :vocabulary]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_p = logits.log_softmax(-1)
    logprobs = log_p.gather(1, targets[:, None]).squeeze(1)
    if not entropy:
        return logprobs, torch.zeros_like(logprobs)
    # The masked copy keeps 0 · −inf out of the product and out of its gradient.
    finite = log_p if allowed is None else log_p.masked_fill(~allowed, 0.0)
    return logprobs, -(log_p.exp() * finite).sum(-1)
