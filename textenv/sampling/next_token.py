"""Next-token log-probabilities of a language model for whoever asks with whole rows of tokens, cached all the same.

The wrappers (KL penalties, reference shaping, top-k and top-p masks) ask once per step with every sequence as it
stands. This adapter recognises a sequence that went on from one it has seen and feeds only what is new.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import ConfigError
from textenv.sampling.slots import SlotEngine


class CachedLogprobs:
    """A language model as a function of token rows, with a KV cache per sequence.

    Args:
        model: Transformers causal LM.
        num_slots: Sequences that are cached side by side, at least as many as are asked for at once.
        max_length: Longest sequence in tokens.
        vocab_size: Ids that exist; a head padded beyond them is cut.
        temperature: Divides the logits.

    Raises:
        ConfigError: If ``max_length`` exceeds the model's context, or the temperature is not positive.
    """

    def __init__(
        self, model: Any, *, num_slots: int, max_length: int, vocab_size: int, temperature: float = 1.0
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"`temperature` must be positive, got {temperature}")
        self.vocab_size = vocab_size
        self.temperature = temperature
        self._engine = SlotEngine(model, num_slots, max_length)
        self._known = np.zeros((num_slots, max_length), np.int64)
        self._lengths = np.zeros(num_slots, np.int64)
        self._used = np.zeros(num_slots, np.int64)
        self._calls = 0

    def drop(self) -> None:
        """Forget everything cached: call it when the model's weights have changed."""
        self._engine.drop()
        self._lengths[:] = 0

    def __call__(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Log-probabilities of every next token.

        Args:
            tokens: Right-padded ids, int64, shape ``(k, L)``.
            lengths: Real tokens of each row, at least 1, shape ``(k,)``.

        Returns:
            Nats, float64, shape ``(k, vocab_size)``.

        Raises:
            ConfigError: If more rows are asked for than there are slots.
            ShapeError: If a row is empty or longer than ``max_length``.
        """
        if len(tokens) > len(self._lengths):
            raise ConfigError(f"asked for {len(tokens)} sequences, `num_slots` is {len(self._lengths)}; raise it")
        slots = self._slots_of(tokens, lengths)
        logits = self._engine.logits(tokens, lengths, slots)[:, : self.vocab_size].double() / self.temperature
        self._calls += 1
        width = min(tokens.shape[1], self._known.shape[1])
        self._known[slots, :width] = tokens[:, :width]
        self._lengths[slots] = lengths
        self._used[slots] = self._calls
        return torch.log_softmax(logits, -1).cpu().numpy()

    def _slots_of(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """A slot for each row: the one that holds most of it, else the one that was not used for longest."""
        width = min(tokens.shape[1], self._known.shape[1])
        steps = np.arange(width)
        slots = np.full(len(tokens), -1)
        free = np.ones(len(self._lengths), np.bool_)
        for row in range(len(tokens)):
            same = self._known[:, :width] == tokens[row, :width]
            same &= steps < np.minimum(self._lengths, lengths[row])[:, None]
            shared = np.logical_and.accumulate(same, axis=1).sum(axis=1)
            # Only a slot whose whole content is a beginning of this row would lose nothing.
            whole = free & (shared == self._lengths) & (shared > 0)
            if whole.any():
                slots[row] = int(np.argmax(np.where(whole, shared, -1)))
                free[slots[row]] = False
        for row in np.flatnonzero(slots < 0):
            oldest = np.where(free, self._used, np.iinfo(np.int64).max)
            slots[row] = int(oldest.argmin())
            free[slots[row]] = False
        return slots
