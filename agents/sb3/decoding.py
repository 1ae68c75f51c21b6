"""Cached decoding for whoever hands over observations: hidden states and values of many rows as they stand."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy
from agents.sb3.rows import Rows
from textenv.errors import ConfigError
from textenv.sampling.slots import SlotEngine


class Lane:
    """A KV cache per row of a batch, for the policy and, where it has a trunk of its own, for the critic.

    Row i of every call goes to slot i. What of it is new the slots find out themselves, so a reset, a changed prompt, a
    restored state or rows that changed places cost time and never a wrong number.

    Args:
        lm: The language model.
        num_slots: Rows at once.
        max_length: Longest row in tokens.

    Raises:
        ConfigError: If the model reads its prompt with an encoder, or its context is shorter than the rows.
    """

    def __init__(self, lm: CausalLMPolicy, num_slots: int, max_length: int) -> None:
        engine = lm.slot_engine(num_slots, max_length)
        if not isinstance(engine, SlotEngine):
            raise ConfigError("TextPolicy decodes causal language models; this one is an encoder-decoder")
        self.num_slots = num_slots
        self._lm = lm
        self._actor = engine
        self._critic = None if lm.critic is None else SlotEngine(lm.critic.compute.model, num_slots, max_length)
        self._hidden = torch.zeros(0)

    def drop(self) -> None:
        """Forget everything cached: the weights have changed."""
        self._actor.drop()
        if self._critic is not None:
            self._critic.drop()

    def logits(self, rows: Rows) -> torch.Tensor:
        """Logits ``(B, V)`` of the token after each row, the model's dtype."""
        self._hidden = self._actor.hidden(rows.tokens, rows.lengths, _first(rows))
        return self._actor.head(self._hidden)[:, : self._lm.vocab_size]

    @torch.no_grad()
    def values(self, rows: Rows, *, after_logits: bool = False) -> torch.Tensor:
        """The critic's estimates for the rows as they stand, shape ``(B,)``.

        Args:
            rows: The rows.
            after_logits: These are the rows that :meth:`logits` has just seen: what both need is there already.
        """
        if self._critic is not None:
            assert self._lm.critic is not None
            hidden, head = self._critic.hidden(rows.tokens, rows.lengths, _first(rows)), self._lm.critic.head
        else:
            head = self._lm.value_head
            hidden = self._hidden if after_logits else self._actor.hidden(rows.tokens, rows.lengths, _first(rows))
        assert head is not None
        return head(hidden.to(head.weight.dtype)).squeeze(-1)


def _first(rows: Rows) -> NDArray[np.int64]:
    """Slots 0, 1, … for the rows."""
    return np.arange(len(rows.lengths))
