"""Rows of tokens as the documents in them: attention document by document, and no token computed that need not be.

The usual way computes whole rows, padding included, and where several documents are packed into one it masks what lies
in the others, which for short documents is nearly all of the scores. Here each document attends to itself alone, so the
cost follows the documents' lengths.

A token's state depends on what stands before it in its document and on nothing else. So what follows the last state
that is asked for is left out (padding; the end of a document, which predicts nothing), and where documents begin alike,
with the begin token at least, with the whole prompt where several answers follow it, the common part is computed once.
Losses and gradients are those of the documents one by one.
"""

from __future__ import annotations

import logging
import threading
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
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from textenv.kernels import DocumentTokens, kernels, required_kernels
from textenv.sampling.models import trunk_of

_logger = logging.getLogger(__name__)

_NAME = "textenv_documents"
_MORE_THAN_CAUSAL = ("sliding_window", "position_bias", "softcap", "s_aux", "dropout")
_LONGEST_COMMON = 256
_WORTHWHILE = 0.95  # share of the tokens that is left, at most


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
        bounds = np.append(0, lengths.cumsum())
        document = np.repeat(np.arange(len(lengths)), lengths)
        steps = np.arange(bounds[-1]) - bounds[document]
        origin = starts[document] + steps
        alone = (np.zeros_like(lengths), lengths[:, None])
        common, leaders = _common_beginnings(ids, columns, starts, lengths) if shared else alone
        new = steps >= common[document]
        numbers = new.cumsum() - 1
        numbers[~new] = numbers[bounds[leaders[document[~new], steps[~new]]] + steps[~new]]
        states = np.zeros(len(ids), np.int64)
        states[origin] = numbers
        places = DocumentTokens(
            tokens=torch.from_numpy(numbers),
            starts=torch.from_numpy(bounds),
            repeated=torch.from_numpy(np.append(0, common.cumsum())),
            again=torch.from_numpy(numbers[~new]),
            longest=int(lengths.max()),
        )
        shape = (1, -1) if shared else tokens.shape
        read, read_positions = (torch.from_numpy(each[origin[new]].reshape(shape)) for each in (ids, columns))
        return cls(read, read_positions, torch.from_numpy(states), places)


def _begins(positions: torch.Tensor) -> torch.Tensor:
    """Whether a document begins at each place."""
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions.diff(dim=1) != 1
    return begins


def _common_beginnings(
    ids: NDArray[np.int64], positions: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What documents begin with in common with others; beyond 256 tokens it is not looked for.

    Args:
        ids: Tokens of all rows, one after the other.
        positions: Likewise.
        starts: Where in these each document starts, shape ``(N,)``.
        lengths: Shape ``(N,)``.

    Returns:
        How many of its first tokens each document takes from others, shape ``(N,)``, and from which document each of
        its places is, its own included, shape ``(N, ≤ 256)``.
    """
    steps = np.arange(min(int(lengths.max()), _LONGEST_COMMON))
    inside = steps < lengths[:, None]
    text = np.where(inside, ids[starts[:, None] + np.where(inside, steps, 0)], -1)
    keyed = np.concatenate([positions[starts, None], text], axis=1)
    # Next to each other in any consistent order stand the documents that have most in common.
    order = np.array(sorted(range(len(keyed)), key=[row.tobytes() for row in keyed].__getitem__))
    differs = np.ones(keyed.shape, np.bool_)
    differs[1:] = keyed[order[1:]] != keyed[order[:-1]]
    alike = ~np.logical_or.accumulate(differs, axis=1)[:, 1:] & inside[order]
    above = np.maximum.accumulate(np.where(alike, 0, np.arange(len(keyed))[:, None]), axis=0)
    common, leaders = np.empty_like(lengths), np.empty_like(above)
    common[order], leaders[order] = alike.sum(1), order[above]
    return common, leaders


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: DocumentTokens, scale: float
    ) -> torch.Tensor:
        out_and_totals = required_kernels().document_attention(q, k, v, places, scale)
        ctx.save_for_backward(q, k, v, *out_and_totals)
        ctx.places, ctx.scale = places, scale
        return out_and_totals[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # @once_differentiable
        q, k, v, out, totals = ctx.saved_tensors
        (by_out,) = grad_outputs
        slopes = required_kernels().document_attention_gradient(
            q, k, v, ctx.places, ctx.scale, (out, totals), by_out.contiguous()
        )
        return *slopes, None, None


class _Current(threading.local):
    """The documents that this thread's call of a model is about."""

    documents: Documents | None = None


_current = _Current()
_switching = threading.RLock()


class _UnsuitedError(Exception):
    """The model's attention is more than causal attention of a document to itself."""


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, Any]:
    """Attention as transformers calls it: ``(B, heads, L, D)`` each, to ``(B, L, heads, D)``."""
    documents, (batch, heads, length, dim) = _current.documents, query.shape
    if documents is None:  # another thread calls the model meanwhile
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    sized = value.shape == key.shape and key.shape[-1] == dim
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (query, key, value))
    more = any(_is_set(options.get(name)) for name in _MORE_THAN_CAUSAL)
    if not (sized and plain) or attention_mask is not None or more:
        raise _UnsuitedError
    flat = [x.transpose(1, 2).reshape(batch * length, -1, dim) for x in (query, key, value)]
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in flat)
    scaling = options.get("scaling")
    out = _Attention.apply(q, k, v, documents.places, dim**-0.5 if scaling is None else scaling)
    return out.view(batch, length, heads, dim), None  # type: ignore[attr-defined]  # apply is not typed


def _is_set(option: Any) -> bool:
    return isinstance(option, torch.Tensor) or bool(option)


def _mask(*arguments: Any, **options: Any) -> Any:
    """None for documents that attend by themselves, else what transformers' own attention gets."""
    if _current.documents is None:
        return sdpa_mask(*arguments, **options)
    if options.get("local_size"):
        raise _UnsuitedError
    return None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)


@contextmanager
def _attending(model: Any, documents: Documents) -> Iterator[None]:
    with _switching:
        config = model.config.get_text_config()
        before = config._attn_implementation
        config._attn_implementation, _current.documents = _NAME, documents
        try:
            yield
        finally:
            config._attn_implementation, _current.documents = before, None


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
    if _suits(model) and bool(wanted.any()) and int(_begins(positions).sum()) > len(positions):
        documents = Documents.of_rows(tokens, positions, wanted, shared=not _is_hooked(model))
        states = _of_documents(model, documents, wanted)
        if states is not None:
            return states
    return _states(model, input_ids=tokens, position_ids=positions)[wanted], None


def padded_states(model: Any, tokens: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
    """Last hidden states at some places of right-padded rows, read without padding and common beginnings once.

    Args:
        model: Transformers causal LM.
        tokens: Ids, int64, shape ``(B, L)``.
        rows: Of the places, int64, shape ``(N,)``.
        columns: Likewise.

    Returns:
        Shape ``(N, D)``; None where the model cannot, or less than a twentieth of the rows' tokens would be saved.
    """
    if not _suits(model) or _is_hooked(model) or not len(rows):
        return None
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[rows, columns] = True
    documents = Documents.of_rows(tokens, torch.arange(tokens.shape[1]).expand(tokens.shape), wanted, shared=True)
    if documents.tokens.numel() > _WORTHWHILE * tokens.numel():
        return None
    states_and_rows = _of_documents(model, documents, wanted)
    if states_and_rows is None:
        return None
    states, rows_of_wanted = states_and_rows
    numbers = torch.zeros_like(tokens)
    numbers[wanted] = rows_of_wanted
    return states[numbers[rows, columns]]


def _of_documents(model: Any, documents: Documents, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """States as `packed_states` gives them; None where the model turns out to be unsuited after all."""
    try:
        with _attending(model, documents):
            states = _states(model, input_ids=documents.tokens, position_ids=documents.positions)
    except _UnsuitedError:
        _suitable[model] = False
        return None
    chosen, rows = documents.states[wanted.flatten()].unique(return_inverse=True)
    return states.flatten(0, 1).index_select(0, chosen), rows


def _is_hooked(model: Any) -> bool:
    """Whether something hangs on a module that may tell apart what is written alike, such as noise."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in kinds)


def _states(model: Any, **inputs: Any) -> torch.Tensor:
    return trunk_of(model)(use_cache=False, **inputs).last_hidden_state


_suitable: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _suits(model: Any) -> bool:
    """Whether attention by documents is at hand for this model and gives what the masked one gives; tried out once."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or kernels() is None:
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    # Dropout tells alike tokens apart; layers that are checkpointed run again when the documents are gone.
    if any(module.training or getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    if model not in _suitable:
        with _switching:  # the configuration is another's while it attends
            _suitable[model] = _gives_the_same(model)
    return _suitable[model]


@torch.no_grad()
def _gives_the_same(model: Any) -> bool:
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or getattr(config, "sliding_window", None):
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    ropes: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type") for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict)))}
    if kinds & {"dynamic", "longrope"}:  # how a place is rotated depends on the batch's largest
        return False
    # Past the embedding module, on which noise may hang.
    embedding = model.get_input_embeddings().weight
    tokens = torch.tensor([[0, 1, 2, 0, 1, 3, 4, 5, 0, 1, 2, 6]]) % len(embedding)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3]])
    documents = Documents.of_rows(tokens, positions, torch.ones_like(tokens, dtype=torch.bool), shared=True)
    try:
        masked = _states(model, inputs_embeds=embedding[tokens], position_ids=positions)
        with _attending(model, documents):
            by_documents = _states(model, inputs_embeds=embedding[documents.tokens], position_ids=documents.positions)
    except Exception as error:  # noqa: BLE001  # whatever an unknown model raises here, its usual path is to be taken
        _logger.debug("%s is not read by documents: %r", type(model).__name__, error)
        return False
    return torch.allclose(by_documents[:, documents.states], masked, atol=1e-4, rtol=1e-3)
