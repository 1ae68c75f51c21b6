"""A KV cache of independent slots behind one call: "here are the token rows, give me the next-token logits".

The engine compares each row with what its slot has cached and feeds only what is new: one token where a sequence went
on, a whole prompt where it was replaced, the changed tail where it was rewound. So whoever steps an environment (the
native agents, Stable-Baselines3, a user's loop) gets cached decoding without telling the engine anything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from textenv.errors import ConfigError, ShapeError
from textenv.mixed_precision import round_up


class SlotCache(Cache):
    """Keys and values of many independent sequences in preallocated tensors.

    Every row is written at its own positions. The caller sets :attr:`rows`, :attr:`positions` and :attr:`key_length`
    before each forward pass.

    Args:
        num_slots: Number of independent sequences.
        max_length: Longest sequence in tokens.
    """

    def __init__(self, num_slots: int, max_length: int) -> None:
        super().__init__(layers=[])
        self.num_slots = num_slots
        self.max_length = max_length
        self.rows: torch.Tensor | None = None
        self.positions = torch.zeros(0, 0, dtype=torch.long)
        self.key_length = 0
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values ``(B, heads, S, dim)``; return those of all positions up to ``key_length``."""
        while len(self._keys) <= layer_idx:
            _, heads, _, key_dim = key_states.shape
            value_dim = value_states.shape[-1]
            self._keys.append(key_states.new_zeros(self.num_slots, self.max_length, heads, key_dim))
            self._values.append(value_states.new_zeros(self.num_slots, self.max_length, heads, value_dim))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        rows = torch.arange(self.num_slots, device=keys.device) if self.rows is None else self.rows
        keys[rows[:, None], self.positions] = key_states.transpose(1, 2)
        values[rows[:, None], self.positions] = value_states.transpose(1, 2)
        seen_keys, seen_values = keys[:, : self.key_length], values[:, : self.key_length]
        if self.rows is not None:
            seen_keys, seen_values = seen_keys[self.rows], seen_values[self.rows]
        return seen_keys.transpose(1, 2), seen_values.transpose(1, 2)

    def copy(self, sources: NDArray[np.int64], targets: NDArray[np.int64], length: int) -> None:
        """Copy the first ``length`` positions of slots ``sources`` to slots ``targets``."""
        for tensor in (*self._keys, *self._values):
            tensor[targets, :length] = tensor[sources, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not meaningful for independent slots; models only use it where no positions are given."""
        return 0


class SlotEngine:
    """Next-token logits of many growing sequences, with a KV cache per slot.

    Args:
        model: A transformers causal language model with standard attention.
        num_slots: Number of sequences.
        max_length: Longest sequence in tokens, prompt included.

    Raises:
        ConfigError: If ``max_length`` exceeds the model's context.
    """

    def __init__(self, model: Any, num_slots: int, max_length: int) -> None:
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and max_length > context:
            raise ConfigError(
                f"prompt and answer need {max_length} tokens, the model's context holds {context}; lower "
                "`max_prompt_tokens` or `max_new_tokens`"
            )
        self.model = model
        self.num_slots = num_slots
        self.max_length = max_length
        self._cache = SlotCache(num_slots, max_length)
        self._tokens = np.zeros((num_slots, max_length), np.int64)
        self._cached = np.zeros(num_slots, np.int64)

    def drop(self) -> None:
        """Forget everything cached: call it when the model's weights have changed."""
        self._cached[:] = 0

    def fork(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Let slots hold what other slots hold: their caches are copied.

        Args:
            sources: Slots to copy from, shape ``(k,)``.
            targets: Slots to copy to, without repetition; all copies show what stood before the call, shape ``(k,)``.
        """
        if len(targets) == 0:
            return
        longest = int(self._cached[sources].max())
        self._cache.copy(sources, targets, longest)
        self._tokens[targets] = self._tokens[sources]
        self._cached[targets] = self._cached[sources]

    @torch.no_grad()
    def logits(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> torch.Tensor:
        """Logits of the token that follows each sequence.

        Args:
            tokens: Right-padded token ids of the sequences, int64, shape ``(B, L)``.
            lengths: Real tokens in each row, at least 1, shape ``(B,)``.
            rows: Slot that each row belongs to, without repetition, shape ``(B,)``.

        Returns:
            Shape ``(B, V)``, the model's dtype.

        Raises:
            ShapeError: If a sequence is empty or longer than ``max_length``.
        """
        if len(rows) == 0:
            raise ShapeError("`rows` is empty: ask for at least one sequence")
        longest = int(lengths.max())
        if longest > self.max_length or int(lengths.min()) < 1:
            raise ShapeError(f"sequence lengths must lie in 1…{self.max_length}, got {lengths.min()}…{longest}")
        first = self._first_new(tokens, lengths, rows)
        width = int((lengths - first).max())
        steps = np.arange(1 if width == 1 else round_up(width, 8))
        positions = np.minimum(first[:, None] + steps, lengths[:, None] - 1)
        fed = np.take_along_axis(tokens, positions, axis=1)
        # A row that is fed twice writes the same values twice; the repetition only rounds up the batch.
        again = np.minimum(np.arange(min(round_up(len(rows), 16), max(self.num_slots, len(rows)))), len(rows) - 1)
        out = self._forward(fed[again], positions[again], rows[again], min(round_up(longest, 16), self.max_length))
        self._tokens[rows, : tokens.shape[1]] = tokens[:, : self.max_length]
        self._cached[rows] = lengths
        last = torch.as_tensor((lengths - 1 - first)[again], device=out.device)
        hidden = out[torch.arange(len(again), device=out.device), last]
        return self.model.get_output_embeddings()(hidden)[: len(rows)]

    def _first_new(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Position of the first token of each row that has to be fed; at least the last token always is."""
        width = min(tokens.shape[1], self.max_length)
        known = self._tokens[rows, :width] == tokens[:, :width]
        known &= np.arange(width) < np.minimum(self._cached[rows], lengths - 1)[:, None]
        return np.logical_and.accumulate(known, axis=1).sum(axis=1)

    def _forward(
        self, fed: NDArray[np.int64], positions: NDArray[np.int64], rows: NDArray[np.int64], key_length: int
    ) -> torch.Tensor:
        """Hidden states ``(B, S, D)`` of the fed tokens, which attend to the first ``key_length`` positions."""
        device = self.model.get_input_embeddings().weight.device
        position_ids = torch.as_tensor(positions, device=device)
        cache = self._cache
        everything = len(rows) == self.num_slots and bool((rows == np.arange(self.num_slots)).all())
        cache.rows = None if everything else torch.as_tensor(rows, device=device)
        cache.positions = position_ids
        cache.key_length = key_length
        mask = torch.arange(key_length, device=device) <= position_ids[:, None, :, None]
        if self.model.config._attn_implementation == "eager":  # adds its mask to the attention scores
            dtype = self.model.get_input_embeddings().weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
        output = self.model.base_model(
            input_ids=torch.as_tensor(fed, device=device),
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state
