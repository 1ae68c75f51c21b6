"""Inverse-CDF lookups in large vocabularies: exact where float32 sums are not, and in few passes.

The vocabulary is summed in blocks: float32 inside a block, float64 across blocks. A uniform number is looked up among
the blocks, then inside one of them. On CPU a few rows at a time stay in the cache from the first pass to the last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 64
_CHUNK_ELEMENTS = 200_000  # float32 entries worked on at once: 0.8 MB, inside a core's second-level cache
_NOTHING = 1e-30  # a share of the largest weight, which is 1, that stands for zero


def compute_dtype(logits: torch.Tensor) -> torch.dtype:
    """What entries are computed in: float64 where they are float64, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def row_chunks(logits: torch.Tensor) -> list[slice]:
    """Rows to work on at once: few enough for the cache on CPU, all of them elsewhere."""
    count, vocabulary = logits.shape
    size = max(1, _CHUNK_ELEMENTS // vocabulary) if logits.device.type == "cpu" else max(1, count)
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]


def by_block(rows: torch.Tensor, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Reduce each block of each row, the last one perhaps short, ``(B, V) -> (B, ceil(V / BLOCK))``."""
    whole = rows.shape[1] // BLOCK * BLOCK
    if whole == rows.shape[1]:
        return reduce(rows.unflatten(1, (-1, BLOCK)), -1)
    rest = reduce(rows[:, whole:], -1, keepdim=True)
    return torch.cat([reduce(rows[:, :whole].unflatten(1, (-1, BLOCK)), -1), rest], 1) if whole else rest


def block_columns(blocks: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of blocks ``(B, k)`` as ``(B, k * BLOCK)``, and which of them exist; the others repeat the last one."""
    columns = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)).flatten(1)
    return columns.clamp(max=vocabulary - 1), columns < vocabulary


def exp_(scores: torch.Tensor) -> torch.Tensor:
    """Weights ``exp(score)`` of scores ≤ 0, in place.

    Where float32 would leave the normal numbers (below −86) the result is about 1e-38 instead of less: the exponential
    of the MKL takes up to 200 times as long there, and 20 times for −inf. :func:`search` never finds such an entry.
    """
    return scores.clamp_(min=_lowest(scores)).exp_()


def exp(scores: torch.Tensor) -> torch.Tensor:
    """As :func:`exp_`, into a new tensor."""
    return scores.clamp(min=_lowest(scores)).exp_()


def _lowest(scores: torch.Tensor) -> float:
    return -86.0 if scores.dtype == torch.float32 else -700.0


def search(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the entry whose share of the cumulative sum holds the uniform number; never one of weight zero.

    Args:
        weights: Not negative, the largest about 1 (or, of a part of a row, less), float64, shape ``(B, n)``.
        uniforms: In [0, 1], float64, shape ``(B, 1)``.

    Returns:
        The entry's index ``(B, 1)``, where inside its share the number fell, in [0, 1], ``(B, 1)``, and the sum of
        all weights ``(B, 1)``.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    # Rounding could carry the product up to the total, which is past every entry; and entries that stand for zero
    # have a share just above 0.
    target = torch.minimum((uniforms * total).clamp_(min=_NOTHING), torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)
    here = weights.gather(1, index)
    before = cumulative.gather(1, (index - 1).clamp_(min=0)).masked_fill_(index == 0, 0.0)
    return index, ((target - before) / here).clamp_(0.0, 1.0), total


def look_up(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a column of each row in proportion to its weight.

    Args:
        weights: Not negative, shape ``(B, V)``.
        uniforms: In [0, 1), float64, shape ``(B, 1)``.

    Returns:
        The columns, int64, ``(B,)``, and the sums of the rows, float64, ``(B,)``.
    """
    if weights.shape[1] <= BLOCK:
        index, _, total = search(weights.double(), uniforms)
        return index.squeeze(1), total.squeeze(1)
    block, inside, total = search(by_block(weights, torch.sum).double(), uniforms)
    columns, exist = block_columns(block, weights.shape[1])
    place, _, _ = search(weights.gather(1, columns).double().mul_(exist), inside)
    return columns.gather(1, place).squeeze(1), total.squeeze(1)


def row_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums of rows ``(B, V)``, float64, shape ``(B,)``."""
    return by_block(weights, torch.sum).double().sum(-1)


def kth_largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest entry of each row, ``(B, V) -> (B, 1)``, without a ``topk`` over all of a long row.

    The k largest entries lie in the k blocks with the largest peaks.
    """
    vocabulary = rows.shape[1]
    if k * BLOCK * 2 > vocabulary:
        return rows.topk(k, -1).values[:, -1:]
    columns, exist = block_columns(by_block(rows, torch.amax).topk(k, -1, sorted=False).indices, vocabulary)
    return rows.gather(1, columns).masked_fill_(~exist, -torch.inf).topk(k, -1).values[:, -1:]


def first_largest(logits: torch.Tensor) -> torch.Tensor:
    """Column of the largest entry of each row, the first of equals, ``(B, V) -> (B,)``; faster than ``argmax``."""
    if logits.shape[1] <= BLOCK:
        return logits.argmax(-1)
    block = by_block(logits, torch.amax).argmax(-1, keepdim=True)
    columns, exist = block_columns(block, logits.shape[1])
    place = logits.gather(1, columns).masked_fill_(~exist, -torch.inf).argmax(-1, keepdim=True)
    return columns.gather(1, place).squeeze(1)
