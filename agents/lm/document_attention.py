"""Packed rows as the documents in them: attention document by document, and no token computed that need not be.

The usual way computes the scores of whole rows and masks what lies in other documents, which for short documents is
nearly all of it. Here each document attends to itself alone, so the cost follows the documents' lengths.

A token's state depends on what stands before it in its document and on nothing else. So what follows the last state
that is asked for is left out (the end of every document, which predicts nothing), and where documents begin alike, with
the begin token at least, the common part is computed once. Losses and gradients are those of the documents one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from textenv.sampling.kernels import DocumentTokens, Kernels, kernels

_NAME = "textenv_documents"


@dataclass(frozen=True)
class Documents:
    """What the model reads of packed rows, and the documents that it consists of.

    Attributes:
        tokens: Ids that the model reads, int64, shape ``(R, C)``; its places are numbered row by row.
        positions: Place of each of them in its own document, same shape.
        states: Which of those places has the state of each place of the packed rows; 0 where none has, int64,
            shape ``(B · L,)``.
        places: Of each document's tokens among them.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    states: torch.Tensor
    places: DocumentTokens

    @classmethod
    def of_rows(cls, tokens: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, *, shared: bool) -> Documents:
        """Documents begin with the rows and where positions do not count on.

        Args:
            tokens: Ids, int64, shape ``(B, L)``.
            positions: Place of each token in its own document, int64, shape ``(B, L)``.
            wanted: True on the places whose state is asked for, at least one, shape ``(B, L)``.
            shared: Leave out what needs not be computed; else the model reads the rows as they are.
        """
        ids, columns = tokens.numpy().ravel(), positions.numpy().ravel()
        starts = _begins(positions).flatten().nonzero().squeeze(1).numpy()
        lengths = np.diff(starts, append=len(ids))
        if shared:
            # Up to the last asked place of each document.
            counted = np.arange(len(ids)) - np.repeat(starts, lengths) + 1
            lengths = np.maximum.reduceat(np.where(wanted.numpy().ravel(), counted, 0), starts)
            starts, lengths = starts[lengths > 0], lengths[lengths > 0]
        steps = np.arange(lengths.max())
        inside = steps < lengths[:, None]
        origin = starts[:, None] + np.where(inside, steps, 0)
        if shared:
            numbers, new = _number(ids[origin], columns[starts], inside)
            read, shape = origin[new], (1, -1)
        else:
            numbers, new = origin, inside
            read, shape = np.arange(len(ids)), tokens.shape
        repeats = inside & ~new
        states = np.zeros(len(ids), np.int64)
        states[origin[inside]] = numbers[inside]
        places = DocumentTokens(
            tokens=torch.from_numpy(numbers[inside]),
            starts=torch.from_numpy(np.append(0, lengths.cumsum())),
            repeated=torch.from_numpy(np.append(0, repeats.sum(1).cumsum())),
            again=torch.from_numpy(numbers[repeats]),
            longest=int(lengths.max()),
        )
        read_ids, read_positions = (torch.from_numpy(each[read].reshape(shape)) for each in (ids, columns))
        return cls(read_ids, read_positions, torch.from_numpy(states), places)


def _begins(positions: torch.Tensor) -> torch.Tensor:
    """Whether a document begins at each place."""
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions.diff(dim=1) != 1
    return begins


def _number(
    ids: NDArray[np.int64], first_positions: NDArray[np.int64], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Number the places of documents so that common beginnings have the same numbers.

    Args:
        ids: Tokens of the documents, shape ``(N, L)``; whatever stands after their ends.
        first_positions: Where in its document each begins, shape ``(N,)``.
        inside: True on the documents' own places, shape ``(N, L)``.

    Returns:
        Numbers, shape ``(N, L)``, and True on the places that have a number first; over those they count up row by row.
    """
    keyed = np.concatenate([first_positions[:, None], np.where(inside, ids, -1)], axis=1)
    # Next to each other in any consistent order stand the documents that have most in common.
    order = np.array(sorted(range(len(keyed)), key=[row.tobytes() for row in keyed].__getitem__))
    keyed, own = keyed[order], inside[order]
    differs = np.ones((len(keyed), keyed.shape[1]), np.bool_)
    differs[1:] = keyed[1:] != keyed[:-1]
    alike = ~np.logical_or.accumulate(differs, axis=1)[:, 1:] & own
    # The row above in which a common place is new.
    leaders = np.maximum.accumulate(np.where(alike, 0, np.arange(len(keyed))[:, None]), axis=0)
    new_sorted = own & ~alike
    new = np.empty_like(new_sorted)
    new[order] = new_sorted
    numbers = new.ravel().cumsum().reshape(new.shape) - 1
    taken = np.empty_like(numbers)
    taken[order] = np.take_along_axis(numbers[order], leaders, axis=0)
    return taken, new


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: DocumentTokens, scale: float
    ) -> torch.Tensor:
        found = _compiled().document_attention(q, k, v, places, scale)
        ctx.save_for_backward(q, k, v, *found)
        ctx.places, ctx.scale = places, scale
        return found[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # @once_differentiable
        q, k, v, out, totals = ctx.saved_tensors
        (by_out,) = grad_outputs
        slopes = _compiled().document_attention_gradient(
            q, k, v, ctx.places, ctx.scale, (out, totals), by_out.contiguous()
        )
        return *slopes, None, None


def _compiled() -> Kernels:
    found = kernels()
    assert found is not None, "documents attend one by one only where the helpers are there"
    return found


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    documents: Documents,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: ``(B, heads, L, D)`` each, to ``(B, L, heads, D)``."""
    batch, heads, length, dim = query.shape
    if value.shape != key.shape or key.shape[-1] != dim:
        raise TypeError(f"values of another size than keys: {value.shape}, {key.shape}")
    q, k, v = (x.transpose(1, 2).reshape(batch * length, -1, dim) for x in (query, key, value))
    out = _Attention.apply(q, k, v, documents.places, dim**-0.5 if scaling is None else scaling)
    return out.view(batch, length, heads, dim), None  # type: ignore[attr-defined]  # apply is not typed


AttentionInterface.register(_NAME, _attend)


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    before = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def packed_states(
    model: Any, tokens: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Last hidden states of packed rows, each document attending to itself alone.

    In float32 on CPUs documents are attended to one by one, and what they begin with in common is computed once, where
    the model can and the compiled helpers are there; elsewhere transformers masks whole rows.

    Args:
        model: Transformers causal LM.
        tokens: Ids, int64, shape ``(B, L)``.
        positions: Place of each token in its own document, shape ``(B, L)``.
        wanted: True on the N places whose state is asked for, shape ``(B, L)``.

    Returns:
        States, shape ``(S, D)``, and which of them each wanted place has, in row-major order, int64, shape ``(N,)``;
        None where each has its own.
    """
    if not (_suits(model) and bool(wanted.any()) and int(_begins(positions).sum()) > len(positions)):
        return _states(model, positions, input_ids=tokens)[wanted], None
    # What hangs on the embedding, such as noise, may tell apart what is written alike.
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    documents = Documents.of_rows(tokens, positions, wanted, shared=not hooked)
    with _attending(model):
        states = _states(model, documents.positions, input_ids=documents.tokens, documents=documents)
    chosen, rows = documents.states[wanted.flatten()].unique(return_inverse=True)
    return states.flatten(0, 1).index_select(0, chosen), rows


def _states(model: Any, positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return model.base_model(position_ids=positions, use_cache=False, **inputs).last_hidden_state


_suitable: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _suits(model: Any) -> bool:
    """Whether attention by documents is at hand for this model and gives what the masked one gives; tried out once."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or model.training or kernels() is None:
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
    tokens = torch.tensor([[0, 1, 2, 0, 1, 3, 4, 5, 0, 1, 2, 6]]) % config.vocab_size
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3]])
    documents = Documents.of_rows(tokens, positions, torch.ones_like(tokens, dtype=torch.bool), shared=True)
    # Past the embedding module, on which noise may hang.
    embedding = model.get_input_embeddings().weight
    masked = _states(model, positions, inputs_embeds=embedding[tokens])
    try:
        with _attending(model):
            inputs = {"inputs_embeds": embedding[documents.tokens], "documents": documents}
            found = _states(model, documents.positions, **inputs)[:, documents.states]
    except TypeError:  # the model does not hand on what its attention is to know, or has another kind of attention
        return False
    return torch.allclose(found, masked, atol=1e-4, rtol=1e-3)
