"""Next-token logits of encoder-decoder models (the T5 and BART kinds), as the slot engine gives those of decoders.

The encoder reads a row's prompt once and keeps what it made of it. The decoder keeps keys and values while the rows
that are asked for have answers of one length and grow together, or drop out, as they do where answers are sampled side
by side; in any other order it reads the answers so far anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from textenv.errors import ShapeError
from textenv.mixed_precision import round_up
from textenv.sampling.models import (
    agrees,
    check_room,
    context_length,
    decodes_with_cache,
    output_head,
    start_token,
    text_config,
)


def decode(model: Any, memory: torch.Tensor, memory_mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Decoder states before each answer token and after the last one.

    Args:
        model: Transformers encoder-decoder model.
        memory: Encoder states, shape ``(B, P, D)``.
        memory_mask: True on real prompt tokens, shape ``(B, P)``.
        tokens: Answer tokens, right-padded, int64, shape ``(B, T)``.

    Returns:
        Shape ``(B, T + 1, D)``.
    """
    start = tokens.new_full((len(tokens), 1), start_token(model))
    return model.get_decoder()(
        input_ids=torch.cat([start, tokens], 1),
        encoder_hidden_states=memory,
        encoder_attention_mask=memory_mask.long(),
        use_cache=False,
    ).last_hidden_state


@dataclass
class _Growing:
    """Rows whose answers have one length, and what the decoder keeps of them.

    Attributes:
        rows: Their slots, shape ``(B,)``.
        answers: Answer tokens that the decoder has read, shape ``(B, T)``.
        memory: Encoder states, shape ``(B, P, D)``.
        mask: True on real prompt tokens, shape ``(B, P)``.
        cache: Keys and values.
    """

    rows: NDArray[np.int64]
    answers: NDArray[np.int64]
    memory: torch.Tensor
    mask: torch.Tensor
    cache: EncoderDecoderCache

    def keep(self, rows: NDArray[np.int64]) -> bool:
        """Forget all rows but these, in their order; False where one of them is not there."""
        place = {row: i for i, row in enumerate(self.rows.tolist())}
        if not place.keys() >= set(rows.tolist()):
            return False
        chosen = np.array([place[row] for row in rows.tolist()])
        if len(chosen) != len(self.rows) or (chosen != np.arange(len(chosen))).any():
            indices = torch.as_tensor(chosen, device=self.memory.device)
            self.cache.batch_select_indices(indices)
            self.rows, self.answers = self.rows[chosen], self.answers[chosen]
            self.memory, self.mask = self.memory[indices], self.mask[indices]
        return True


class EncoderDecoderEngine:
    """Next-token logits of many growing sequences, prompt first, as :class:`textenv.sampling.SlotEngine` takes them.

    Args:
        model: A transformers encoder-decoder model.
        num_slots: Number of sequences.
        max_length: Longest sequence in tokens, prompt included.
        absent: Ids that are no tokens, whose logits are −inf, shape ``(k,)``.

    Raises:
        ConfigError: If ``max_length`` exceeds the model's context, or the engine's logits are not the model's own, with
            a cache or without (it is tried out once per model).

    Attributes:
        prompt_lengths: Prompt tokens of each slot, shape ``(num_slots,)``, for callers that know them. None: the row
            that a slot is first called with is its prompt, and stays so while later rows begin with it.
    """

    def __init__(self, model: Any, num_slots: int, max_length: int, *, absent: NDArray[np.int64] | None = None) -> None:
        check_room(model, max_length)
        self.model = model
        self._absent = absent
        self.num_slots = num_slots
        self.max_length = max_length
        self.prompt_lengths: NDArray[np.int64] | None = None
        self._prompts: list[tuple[int, ...]] = [()] * num_slots
        self._memories: list[torch.Tensor | None] = [None] * num_slots
        self._growing: _Growing | None = None
        # How many tokens an expert has had is in no cache, and shows only where it has had its fill.
        experts = bool(getattr(model.config, "expert_capacity", None))
        self._caches = decodes_with_cache(
            model,
            "answers",
            partial(_gives_its_own, model),
            ways=(False,) if experts else (True, False),
            cause="its experts count the tokens that they have had" if experts else "",
        )

    @property
    def decoding(self) -> Literal["cached", "anew"]:
        """With a cache of the decoder's, or whole answers at every step."""
        return "cached" if self._caches else "anew"

    def drop(self) -> None:
        """Forget everything cached: call it when the model's weights have changed."""
        self._growing = None
        self._prompts = [()] * self.num_slots
        self._memories = [None] * self.num_slots

    def fork(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Let slots hold what other slots hold; see :meth:`textenv.sampling.SlotEngine.fork`."""
        self._growing = None
        held = [(self._prompts[source], self._memories[source]) for source in sources.tolist()]
        for target, (prompt, memory) in zip(targets.tolist(), held, strict=True):
            self._prompts[target], self._memories[target] = prompt, memory

    @torch.no_grad()
    def logits(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> torch.Tensor:
        """Logits of the token that follows each sequence.

        Args:
            tokens: Right-padded ids, prompt and answer, int64, shape ``(B, L)``.
            lengths: Real tokens in each row, shape ``(B,)``.
            rows: Slot that each row belongs to, without repetition, shape ``(B,)``.

        Returns:
            Shape ``(B, V)``, the model's dtype.

        Raises:
            ShapeError: If a sequence is empty or longer than ``max_length``, or shorter than its prompt.
        """
        if len(rows) == 0:
            raise ShapeError("`rows` is empty: ask for at least one sequence")
        if int(lengths.max()) > self.max_length or int(lengths.min()) < 1:
            raise ShapeError(f"sequence lengths must lie in 1…{self.max_length}, got {lengths.min()}…{lengths.max()}")
        starts = self._encode(tokens, lengths, rows)
        answered = lengths - starts
        width = int(answered.max())
        columns = np.minimum(starts[:, None] + np.arange(width), lengths[:, None] - 1)
        answers = np.take_along_axis(tokens, columns, axis=1)
        if int(answered.min()) == width and self._caches:
            last = self._grow(rows, answers, starts)
        else:
            self._growing = None
            device = self.model.get_input_embeddings().weight.device
            states = decode(self.model, *self._memory(rows, starts), torch.as_tensor(answers, device=device))
            last = states[torch.arange(len(rows), device=device), torch.as_tensor(answered, device=device)]
        logits = output_head(self.model)(last)
        if self._absent is None or not len(self._absent):
            return logits
        return logits.index_fill_(1, torch.as_tensor(self._absent, device=logits.device), -torch.inf)

    def _memory(self, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states ``(B, P, D)`` of rows, and where they are real."""
        memories = [memory for row in rows.tolist() if (memory := self._memories[row]) is not None]
        memory = torch.nn.utils.rnn.pad_sequence(memories, batch_first=True)
        lengths = torch.as_tensor(starts, device=memory.device)
        return memory, torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]

    def _grow(self, rows: NDArray[np.int64], answers: NDArray[np.int64], starts: NDArray[np.int64]) -> torch.Tensor:
        """Decoder states after answers of one length, ``(B, D)``; feeds one token where the rows are known."""
        growing, length = self._growing, answers.shape[1]
        known = (
            growing is not None
            and growing.answers.shape[1] == length - 1
            and growing.keep(rows)
            and bool((growing.answers == answers[:, :-1]).all())
        )
        if growing is None or not known:
            memory, mask = self._memory(rows, starts)
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            growing = self._growing = _Growing(rows.copy(), answers, memory, mask, cache)
            start = np.full((len(rows), 1), start_token(self.model), np.int64)
            fed = np.concatenate([start, answers], axis=1)
        else:
            growing.answers, fed = answers, answers[:, -1:]
        states = self.model.get_decoder()(
            input_ids=torch.as_tensor(fed, device=growing.memory.device),
            encoder_hidden_states=growing.memory,
            encoder_attention_mask=growing.mask.long(),
            past_key_values=growing.cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]

    def _encode(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Let the encoder read prompts that it has not read yet; prompt length of each row."""
        starts = np.zeros(len(rows), np.int64)
        new: list[int] = []
        for i, row in enumerate(rows.tolist()):
            held = self._prompts[row]
            if self.prompt_lengths is not None:
                starts[i] = self.prompt_lengths[row]
            else:
                goes_on = bool(held) and len(held) <= lengths[i] and tuple(tokens[i, : len(held)].tolist()) == held
                starts[i] = len(held) if goes_on else lengths[i]
            if not 1 <= starts[i] <= lengths[i]:
                raise ShapeError(f"slot {row} has a prompt of {starts[i]} tokens in a row of {lengths[i]}")
            prompt = tuple(tokens[i, : starts[i]].tolist())
            if prompt != held:
                self._prompts[row] = prompt
                new.append(i)
        if new:
            self._growing = None
            device = self.model.get_input_embeddings().weight.device
            width = round_up(int(starts[new].max()), 8)
            ids = np.zeros((len(new), width), np.int64)
            ids[:, : min(width, tokens.shape[1])] = tokens[new][:, :width]
            mask = np.arange(width) < starts[new][:, None]
            memory = self.model.get_encoder()(
                input_ids=torch.as_tensor(np.where(mask, ids, 0), device=device),
                attention_mask=torch.as_tensor(mask, device=device).long(),
            ).last_hidden_state
            for place, i in enumerate(new):
                self._memories[int(rows[i])] = memory[place, : starts[i]]
        return starts


def _gives_its_own(model: Any) -> bool | None:
    """Whether an engine's logits are the model's own: answers that grow together, drop out, and differ in length."""
    device = model.get_input_embeddings().weight.device
    length = min(8, context_length(model.config) or 8)
    rows = np.arange(3 * length).reshape(3, length) * 7 % text_config(model.config).vocab_size
    engine, prompts = EncoderDecoderEngine(model, 3, length), np.minimum([3, 1, 2], length)
    engine.prompt_lengths = prompts
    cached, expected = [], []
    for slots, answered in (([0, 1, 2], [0, 0, 0]), ([0, 1, 2], [1, 1, 1]), ([2, 0], [2, 2]), ([0, 1], [3, 4])):
        lengths = np.minimum(prompts[slots] + answered, length)
        cached.append(engine.logits(rows[slots], lengths, np.array(slots)))
        for slot, size in zip(slots, lengths, strict=True):
            prompt, answer = rows[slot, : prompts[slot]], rows[slot, prompts[slot] : size]
            whole = model(
                input_ids=torch.as_tensor(prompt[None], device=device),
                decoder_input_ids=torch.as_tensor([[start_token(model), *answer]], device=device),
            )
            expected.append(whole.logits[0, -1])
    return agrees(torch.cat(cached), torch.stack(expected), model.dtype)
