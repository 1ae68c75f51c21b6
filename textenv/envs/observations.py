"""What observations look like: spaces, and how the state of the slots is written into them.

=============  ========================================================================================================
``"tokens"``   one ``Box`` of token ids, shape ``(L,)``: prompt, then answer, padded to the longest episode
``"dict"``     ``tokens`` as above, ``attention_mask`` (1 on real tokens, ``(L,)`` int8) and ``length`` (``(1,)`` int64)
``"text"``     prompt and answer as one string; decoded on every step, for people and turn-level agents
=============  ========================================================================================================
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from textenv.envs.slots import Slots
from textenv.envs.task import GenerationTask

_CHARACTERS_PER_TOKEN = 32


class AnyText(spaces.Text):
    """A ``Text`` space whose members may hold any character; samples are printable ASCII.

    Gymnasium's own needs every allowed character listed, which for Unicode takes seconds and megabytes.

    Args:
        max_length: Most characters.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        """Whether x is a string of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length


class ObservationForm:
    """Makes observations of slots; every call returns new arrays.

    Args:
        task: Says form, data type, padding side and sizes.
    """

    def __init__(self, task: GenerationTask) -> None:
        self._task = task
        self._columns = np.arange(task.max_length)
        self.space = self._make_space()

    def _make_space(self) -> spaces.Space[Any]:
        task = self._task
        length = task.max_length
        if task.observation == "text":
            return AnyText(length * _CHARACTERS_PER_TOKEN)
        highest = max(task.vocab_size - 1, task.pad_token_id)
        tokens = spaces.Box(0, highest, (length,), task.obs_dtype.type)
        if task.observation == "tokens":
            return tokens
        return spaces.Dict(
            tokens=tokens,
            attention_mask=spaces.Box(0, 1, (length,), np.int8),
            length=spaces.Box(0, length, (1,), np.int64),
        )

    def batch(self, slots: Slots) -> Any:
        """Observations of all slots."""
        if self._task.observation == "text":
            return tuple(self._text(slots, slot) for slot in range(slots.num_slots))
        tokens = self._tokens(slots.tokens, slots.lengths)
        if self._task.observation == "tokens":
            return tokens
        return {
            "attention_mask": self._mask(slots.lengths),
            "length": slots.lengths[:, None].copy(),
            "tokens": tokens,
        }

    def single(self, slots: Slots, slot: int) -> Any:
        """Observation of one slot."""
        if self._task.observation == "text":
            return self._text(slots, slot)
        lengths = slots.lengths[slot : slot + 1]
        tokens = self._tokens(slots.tokens[slot : slot + 1], lengths)[0]
        if self._task.observation == "tokens":
            return tokens
        return {"attention_mask": self._mask(lengths)[0], "length": lengths.copy(), "tokens": tokens}

    def _tokens(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """A padded copy, shape ``(n, L)``."""
        if self._task.padding_side == "right":
            return tokens.astype(self._task.obs_dtype, copy=True)
        source = self._columns - (self._task.max_length - lengths[:, None])  # (n, L), below 0 on padding
        shifted = np.take_along_axis(tokens, np.maximum(source, 0), axis=1)
        shifted[source < 0] = self._task.pad_token_id
        return shifted.astype(self._task.obs_dtype, copy=False)

    def _mask(self, lengths: NDArray[np.int64]) -> NDArray[np.int8]:
        """1 on real tokens, shape ``(n, L)``."""
        if self._task.padding_side == "right":
            return (self._columns < lengths[:, None]).astype(np.int8)
        return (self._columns >= self._task.max_length - lengths[:, None]).astype(np.int8)

    def _text(self, slots: Slots, slot: int) -> str:
        prompt = slots.prompts[slot]
        start, end = slots.prompt_lengths[slot], slots.lengths[slot]
        context, answer = slots.tokens[slot, :start].tolist(), slots.tokens[slot, start:end].tolist()
        text = self._task.answers.decode_after(context, answer, skip_special_tokens=False)
        text = text if prompt is None else prompt.text + text
        return text[: self._task.max_length * _CHARACTERS_PER_TOKEN]
