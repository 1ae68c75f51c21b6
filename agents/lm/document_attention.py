"""Attention inside the documents of packed rows, document by document.

The usual way computes the scores of whole rows and masks what lies in other documents, which for short documents is
nearly all of it. Here documents of about the same length are put side by side, padded at their ends, and attended to
causally: padding comes after every real token, so no mask is needed, and the cost follows the documents' lengths
instead of the rows'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

_NAME = "textenv_documents"
_BOUNDS = np.array([8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096])


@dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows lie, grouped by length.

    Attributes:
        places: Row-major places of the tokens of all groups, one document after the other; a document that is shorter
            than its group's longest goes on with its first place. int64, shape ``(M,)``.
        inverse: Where in ``places`` each place of the rows is, int64, shape ``(B · L,)``.
        groups: Number and padded length of the documents of each group.
    """

    places: torch.Tensor
    inverse: torch.Tensor
    groups: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Number of documents."""
        return sum(count for count, _ in self.groups)

    @classmethod
    def from_positions(cls, positions: torch.Tensor) -> Documents:
        """Documents begin with the rows and where positions do not count on.

        Args:
            positions: Place of each token in its own document, int64, shape ``(B, L)``.
        """
        begins = torch.ones_like(positions, dtype=torch.bool)
        begins[:, 1:] = positions.diff(dim=1) != 1
        starts = begins.flatten().nonzero().squeeze(1).cpu().numpy()
        lengths = np.diff(starts, append=positions.numel())
        sizes = np.searchsorted(_BOUNDS, lengths)
        places, groups = [], []
        for size in np.unique(sizes):
            chosen = sizes == size
            longest = int(lengths[chosen].max())
            columns = np.arange(longest)
            inside = columns < lengths[chosen, None]
            places.append((starts[chosen, None] + np.where(inside, columns, 0)).ravel())
            groups.append((int(chosen.sum()), longest))
        flat = np.concatenate(places)
        inverse = np.empty(positions.numel(), np.int64)
        inverse[flat[::-1]] = np.arange(len(flat))[::-1]  # of a place that comes again as padding, the first counts
        indices = (torch.as_tensor(each, device=positions.device) for each in (flat, inverse))
        return cls(*indices, groups=tuple(groups))


class _Gather(torch.autograd.Function):
    """Rows of tokens into groups; padding has no gradient, so that of the rows is read off."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, documents: Documents) -> torch.Tensor:
        ctx.documents = documents
        return x.index_select(0, documents.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]  # @once_differentiable
        return grad_outputs[0].index_select(0, ctx.documents.inverse), None


class _Scatter(torch.autograd.Function):
    """Groups back into rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, documents: Documents) -> torch.Tensor:
        ctx.documents = documents
        return x.index_select(0, documents.inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]  # @once_differentiable
        (by_rows,) = grad_outputs
        by_groups = by_rows.new_zeros(len(ctx.documents.places), *by_rows.shape[1:])
        return by_groups.index_copy_(0, ctx.documents.inverse, by_rows), None


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    documents: Documents,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: ``(B, heads, L, D)`` each, to ``(B, L, heads, D)``."""
    batch, heads, length, _dim = query.shape
    sizes = [count * size for count, size in documents.groups]
    parts = []
    for x in (query, key, value):
        flat = x.transpose(1, 2).reshape(batch * length, -1)
        parts.append(_Gather.apply(flat, documents).split(sizes))
    outputs = []
    for (count, size), *group in zip(documents.groups, *parts, strict=True):
        q, k, v = (
            part.view(count, size, x.shape[1], -1).transpose(1, 2)
            for part, x in zip(group, (query, key, value), strict=True)
        )
        if k.shape[1] != heads:
            k, v = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (k, v))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        outputs.append(out.transpose(1, 2).reshape(count * size, -1))
    rows_of_tokens = _Scatter.apply(torch.cat(outputs), documents)
    return rows_of_tokens.view(batch, length, heads, -1), None


AttentionInterface.register(_NAME, _attend)


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    before = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def packed_states(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Last hidden states of packed rows, each document attending to itself alone.

    In float32 on CPUs documents are attended to one by one, where the model can; elsewhere transformers masks whole
    rows (in bfloat16 the CPU's kernels are compiled per shape, and the groups' shapes hardly ever come again).

    Args:
        model: Transformers causal LM.
        tokens: Ids, int64, shape ``(B, L)``.
        positions: Place of each token in its own document, shape ``(B, L)``.
    """
    if _suits(model):
        documents = Documents.from_positions(positions)
        if documents.count > len(positions):
            with _attending(model):
                return _states(model, positions, input_ids=tokens, documents=documents)
    return _states(model, positions, input_ids=tokens)


def _states(model: Any, positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return model.base_model(position_ids=positions, use_cache=False, **inputs).last_hidden_state


_suitable: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _suits(model: Any) -> bool:
    """Whether attention by documents is at hand for this model and gives what the masked one gives; tried out once."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or model.training:
        return False
    # Layers that are checkpointed run again when the arguments are gone.
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    if model not in _suitable:
        _suitable[model] = _gives_the_same(model)
    return _suitable[model]


@torch.no_grad()
def _gives_the_same(model: Any) -> bool:
    config = model.config
    if config._attn_implementation != "sdpa" or getattr(config, "sliding_window", None):
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    # Past the embedding module, on which noise may hang.
    embedded = model.get_input_embeddings().weight[torch.arange(12) % config.vocab_size][None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3]])
    masked = _states(model, positions, inputs_embeds=embedded)
    try:
        with _attending(model):
            documents = Documents.from_positions(positions)
            found = _states(model, positions, inputs_embeds=embedded, documents=documents)
    except TypeError:  # the model does not hand on what its attention is to know
        return False
    return torch.allclose(found, masked, atol=1e-4, rtol=1e-3)
