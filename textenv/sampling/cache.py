"""Keys and values of many independent sequences, and the blocks of tokens that are fed to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache


@dataclass(frozen=True)
class Block:
    """A rectangle of tokens that goes through the model together, one row per sequence.

    Attributes:
        tokens: Ids, int64, shape ``(b, s)``.
        positions: Their positions in their sequences, shape ``(b, s)``.
        places: Row of the cache that each sequence is written to, shape ``(b,)``; None means the first ``b`` rows.
        targets: Position of the cache that each token is written to, shape ``(b, s)``.
        visible: True where a token may look, shape ``(b, 1, s, K)``.
        fresh: Tokens look at this block's own keys and values only (a prompt from its first token on).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor | None
    targets: torch.Tensor
    visible: torch.Tensor
    fresh: bool


class SlotCache(Cache):
    """Keys and values of independent sequences in preallocated tensors; a row is written at its own positions.

    Set :attr:`block` before a forward pass of a transformers model.

    Args:
        num_slots: Number of independent sequences.
        max_length: Longest sequence in tokens; one position more is kept for rows that have nothing to say.
    """

    def __init__(self, num_slots: int, max_length: int) -> None:
        super().__init__(layers=[])
        self.num_slots = num_slots
        self.max_length = max_length
        self.block: Block | None = None
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def tensors(
        self, layer: int, like: torch.Tensor, heads: int, value_dim: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, ``(num_slots, max_length + 1, heads, dim)``; ``like`` has the keys' ``dim``."""
        while len(self._keys) <= layer:
            shape = (self.num_slots, self.max_length + 1, heads)
            self._keys.append(like.new_zeros(*shape, like.shape[-1]))
            self._values.append(like.new_zeros(*shape, value_dim or like.shape[-1]))
        return self._keys[layer], self._values[layer]

    def exchange(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, block: Block
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a block's keys and values ``(b, s, heads, dim)``; return all that it sees, ``(b, K, heads, dim)``."""
        all_keys, all_values = self.tensors(layer, keys, keys.shape[2], values.shape[-1])
        places = torch.arange(len(keys), device=keys.device) if block.places is None else block.places
        all_keys[places[:, None], block.targets] = keys
        all_values[places[:, None], block.targets] = values
        if block.fresh:
            return keys, values
        length = block.visible.shape[-1]
        if block.places is None:
            return all_keys[: len(keys), :length], all_values[: len(keys), :length]
        return all_keys[places, :length], all_values[places, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for transformers' models: ``(b, heads, s, dim)`` in, ``(b, heads, K, dim)`` out."""
        assert self.block is not None, "set `block` before the forward pass"
        keys, values = self.exchange(layer_idx, key_states.transpose(1, 2), value_states.transpose(1, 2), self.block)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def clear(self, like: torch.Tensor) -> bool:
        """Make everything zero; returns whether the tensors stay, as they do for weights of one type on one device."""
        stay = all(t.dtype == like.dtype and t.device == like.device for t in self._keys)
        if not stay:
            self._keys, self._values = [], []
        for tensor in (*self._keys, *self._values):
            tensor.zero_()
        return stay

    def copy(self, sources: NDArray[np.int64], targets: NDArray[np.int64], length: int) -> None:
        """Copy the first ``length`` positions of rows ``sources`` to rows ``targets``."""
        pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
        overlapping = not set(targets.tolist()).isdisjoint(sources.tolist())
        for tensor in (*self._keys, *self._values):
            if overlapping:  # all rows are read before one is written
                tensor[targets, :length] = tensor[sources, :length]
                continue
            for source, target in pairs:
                tensor[target, :length].copy_(tensor[source, :length])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not meaningful for independent slots; models only use it where no positions are given."""
        return 0
