"""A KV cache of independent slots behind one call: "here are the token rows, give me the next-token logits".

The engine compares each row with what its slot has cached and feeds only what is new: one token where a sequence went
on, a whole prompt where it was replaced, the changed tail where it was rewound. So whoever steps an environment (the
native agents, Stable-Baselines3, a user's loop) gets cached decoding without telling the engine anything else.

A prompt that several slots begin with is computed once and copied. Slots that are asked for stand side by side in the
cache, so a step costs what its running sequences cost. Models of the Llama kind decode through their packed form
(:mod:`textenv.sampling.packed_decoding`), all others through transformers' own forward pass; a model that this cache
does not suit (recurrent states, positions that it counts itself) reads whole sequences at every step, and the log says
so.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.mixed_precision import round_up
from textenv.sampling.cache import Block, SlotCache
from textenv.sampling.cuda_graphs import RecordedSteps
from textenv.sampling.models import (
    OutputHead,
    agrees,
    check_room,
    decodes_with_cache,
    output_head,
    text_config,
    trunk_of,
)
from textenv.sampling.packed_decoding import packed_decoder

_PREFILL_TOKENS = 4096  # prompt tokens that go through the model together


def smallest_window(config: Any, max_length: int) -> int | None:
    """How far back some layers of a model see, where that is less than ``max_length``."""
    config = text_config(config)
    if getattr(config, "use_sliding_window", True) is False:
        return None
    names = ("sliding_window", "window_size", "attention_chunk_size")
    sizes = [size for name in names if isinstance(size := getattr(config, name, None), int) and size < max_length]
    return min(sizes, default=None)


def _gives_its_own(model: Any, length: int) -> bool | None:
    """Whether an engine's numbers are the model's own: two slots at different lengths, one of which starts again."""
    device = model.get_input_embeddings().weight.device
    rows = np.arange(3 * length).reshape(3, length) * 7 % text_config(model.config).vocab_size
    headed = model.get_output_embeddings() is not None
    whole = []
    for row in rows:
        output = (model if headed else trunk_of(model))(input_ids=torch.as_tensor(row[None], device=device))
        whole.append((output.logits if headed else output.last_hidden_state)[0])
    short, most = max(1, length // 2), max(1, length - 2)
    # What each slot holds from call to call: a row and how much of it.
    calls = (
        {0: (0, most), 1: (1, short)},
        {0: (0, max(1, length - 1)), 1: (1, min(short + 1, length))},
        {0: (0, length), 1: (2, short)},
        {1: (2, min(short + 1, length))},
    )
    engine, cached, expected = SlotEngine(model, 2, length), [], []
    for call in calls:
        numbers, lengths = np.array(list(call.values())).T
        states = engine.hidden(rows[numbers], lengths, np.array(list(call)))
        cached.append(engine.head(states) if headed else states)
        expected += [whole[number][size - 1] for number, size in call.values()]
    return agrees(torch.cat(cached), torch.stack(expected), model.dtype)


def absent_index(absent: NDArray[np.int64] | None, model: Any) -> torch.Tensor | None:
    """Ids that are no tokens, on the model's device; None where there are none."""
    if absent is None or not len(absent):
        return None
    return torch.as_tensor(absent, device=model.get_input_embeddings().weight.device)


def without_absent(logits: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """Logits ``(B, V)``, −inf in place for ids that are no tokens."""
    return logits if absent is None else logits.index_fill_(1, absent, -torch.inf)


class SlotEngine:
    """Next-token logits of many growing sequences, with a KV cache per slot.

    Args:
        model: A transformers causal language model.
        num_slots: Number of sequences.
        max_length: Longest sequence in tokens, prompt included.
        absent: Ids that are no tokens, whose logits are −inf, shape ``(k,)``.
        cuda_graphs: On a GPU, record decode steps and replay them (models that have a packed form).

    Raises:
        ConfigError: If ``max_length`` exceeds the model's context, there are no slots, or the engine's logits are not
            the model's own, with a cache or without (it is tried out once per model).
    """

    def __init__(
        self,
        model: Any,
        num_slots: int,
        max_length: int,
        *,
        cuda_graphs: bool = False,
        absent: NDArray[np.int64] | None = None,
    ) -> None:
        if num_slots < 1 or max_length < 1:
            raise ConfigError(f"`num_slots` and `max_length` must be ≥ 1, got {num_slots} and {max_length}")
        check_room(model, max_length)
        self.model = model
        self.num_slots = num_slots
        self.max_length = max_length
        self._absent = absent_index(absent, model)
        self._cache = SlotCache(num_slots, max_length)
        self._tokens = np.zeros((num_slots, max_length), np.int64)
        self._cached = np.zeros(num_slots, np.int64)
        # Where in the cache a slot stands, and which slot stands there.
        self._places = np.arange(num_slots)
        self._owners = np.arange(num_slots)
        self._packed = packed_decoder(model)
        self._stale = False
        # A GPU replays recorded steps, for which few shapes are worth more than small ones.
        self._recorded: RecordedSteps | None = None
        self._window = smallest_window(model.config, max_length)
        length = min(max_length, 8 if self._window is None else self._window + 4)
        self._caches = decodes_with_cache(
            model, (length, self._packed is not None), partial(_gives_its_own, model, length)
        )
        self._output_head = self._make_head()
        if cuda_graphs and self._packed is not None and model.get_input_embeddings().weight.device.type == "cuda":
            self._recorded = RecordedSteps(self._packed, self._cache)

    @property
    def decoding(self) -> Literal["packed", "cached", "anew"]:
        """Through the packed form, through transformers' with a cache, or whole sequences at every step."""
        return "anew" if not self._caches else "cached" if self._packed is None else "packed"

    def drop(self) -> None:
        """Forget everything cached: call it when the model has changed, its weights, adapters or data type."""
        self._cached[:] = 0
        self._stale = True

    def _renew(self) -> None:
        """Take over a model that has changed."""
        self._stale = False
        before, self._packed = self._packed, packed_decoder(self.model)
        # What stood in the cache must not even be met with weight zero: NaN times zero is NaN.
        stays = self._cache.clear(self.model.get_input_embeddings().weight)
        self._output_head = self._make_head()
        if self._recorded is not None and not (stays and self._packed is before):
            self._recorded = None if self._packed is None else RecordedSteps(self._packed, self._cache)

    def fork(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Let slots hold what other slots hold: their caches are copied.

        Args:
            sources: Slots to copy from, shape ``(k,)``.
            targets: Slots to copy to, without repetition; all copies show what stood before the call, shape ``(k,)``.
        """
        moved = sources != targets
        sources, targets = sources[moved], targets[moved]
        if len(targets) == 0:
            return
        longest = int(self._cached[sources].max())
        self._cache.copy(self._places[sources], self._places[targets], longest)
        self._tokens[targets] = self._tokens[sources]
        self._cached[targets] = self._cached[sources]

    def step(self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Append one token to each row and return the logits of the next.

        Args:
            tokens: Ids, int64, shape ``(B,)``.
            rows: Slots, without repetition, shape ``(B,)``; None means all of them.

        Returns:
            Shape ``(B, V)``, the model's dtype.

        Raises:
            ShapeError: If a slot is full.
        """
        rows = np.arange(self.num_slots) if rows is None else rows
        if (self._cached[rows] >= self.max_length).any():
            raise ShapeError(f"a sequence already has `max_length` = {self.max_length} tokens")
        grown = self._tokens[rows]
        grown[np.arange(len(rows)), self._cached[rows]] = tokens
        return self.logits(grown, self._cached[rows] + 1, rows)

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
        return self.head(self.hidden(tokens, lengths, rows))

    @torch.no_grad()
    def prefix_logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """Logits after each token of one sequence, from a forward pass that leaves all slots as they are.

        Args:
            tokens: Ids, int64, shape ``(L,)``.

        Returns:
            Shape ``(L, V)``; row i is about token i + 1.
        """
        ids = torch.as_tensor(tokens, device=self.model.get_input_embeddings().weight.device)[None]
        return without_absent(self.model(input_ids=ids, use_cache=False).logits[0], self._absent)

    @torch.no_grad()
    def hidden(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> torch.Tensor:
        """Last hidden states ``(B, D)``, for heads of one's own; arguments and errors as of :meth:`logits`."""
        longest = self._check(tokens, lengths, rows)
        if self._stale:
            self._renew()
        tokens = tokens[:, :longest]
        if not self._caches:
            return self._anew(tokens, lengths, rows)
        try:
            first = self._first_new(tokens, lengths, rows)
            self._borrow(np.flatnonzero(lengths - first > 1), tokens, lengths, rows, first)
            twins = self._twins(tokens, lengths, first)
            leaders = np.flatnonzero(twins == np.arange(len(rows)))
            self._tokens[rows, :longest] = tokens
            self._cached[rows] = lengths
            states = self._feed(rows[leaders], first[leaders])
            if len(leaders) == len(rows):
                return states
            others = np.flatnonzero(twins != np.arange(len(rows)))
            sources, targets = self._places[rows[twins[others]]], self._places[rows[others]]
            self._cache.copy(sources, targets, int(lengths[others].max()))
            return states[torch.as_tensor(np.searchsorted(leaders, twins), device=states.device)]
        except BaseException:
            self._cached[rows] = 0  # what was to be computed is not there, whatever stopped it, Ctrl-C included
            raise

    def _check(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> int:
        """Refuse rows that cannot be; the longest length."""
        if len(rows) == 0:
            raise ShapeError("`rows` is empty: ask for at least one sequence")
        if len(tokens) != len(rows) or len(lengths) != len(rows) or len(set(rows.tolist())) != len(rows):
            raise ShapeError(
                f"got {len(tokens)} rows of tokens and {len(lengths)} lengths for slots {rows.tolist()}; give one of "
                "each per slot, and each slot once"
            )
        longest, room = int(lengths.max()), min(self.max_length, tokens.shape[1])
        if longest > room or int(lengths.min()) < 1:
            raise ShapeError(f"sequence lengths must lie in 1…{room}, got {lengths.min()}…{longest}")
        if not np.issubdtype(tokens.dtype, np.integer):
            raise ShapeError(f"`tokens` must hold integers, got {tokens.dtype}")
        return longest

    @torch.no_grad()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, V)`` of hidden states ``(B, D)``; the product's shape is rounded up."""
        rows = len(hidden)
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, round_up(rows, 16) - rows))
        if self._output_head is None:
            raise ConfigError(f"{type(self.model).__name__} has no output embedding: it has states, and no logits")
        return without_absent(self._output_head(padded)[:rows], self._absent)

    def _make_head(self) -> OutputHead | None:
        """The model's head, on packed weights where there are any."""
        if self.model.get_output_embeddings() is None:
            return None
        return output_head(self.model, None if self._packed is None else self._packed.head)

    def _anew(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> torch.Tensor:
        """Last hidden states ``(B, D)`` of whole sequences, for models that cannot be decoded with this cache."""
        self._tokens[rows, : tokens.shape[1]], self._cached[rows] = tokens, lengths
        device = self.model.get_input_embeddings().weight.device
        last_states: list[torch.Tensor] = [torch.zeros(0)] * len(rows)
        for part in self._prompt_parts(np.arange(len(rows)), lengths):
            ids = torch.as_tensor(tokens[part, : int(lengths[part].max())], device=device)
            states = trunk_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
            for place, row in enumerate(part):
                last_states[row] = states[place, lengths[row] - 1]
        return torch.stack(last_states)

    # --- which tokens are new -----------------------------------------------------------------------------------------

    def _first_new(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Position of the first token of each row that has to be fed; at least the last token always is."""
        width = tokens.shape[1]
        known = self._tokens[rows, :width] == tokens
        known &= np.arange(width) < np.minimum(self._cached[rows], lengths - 1)[:, None]
        return np.logical_and.accumulate(known, axis=1).sum(axis=1)

    def _twins(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], first: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """For each row the first one that is the same: a new prompt is computed once for all its samples."""
        twins = np.arange(len(tokens))
        seen: dict[bytes, int] = {}
        for row in np.flatnonzero(lengths - first > 1):
            twins[row] = seen.setdefault(tokens[row, : lengths[row]].tobytes(), int(row))
        return twins

    def _borrow(
        self,
        wanting: NDArray[np.int64],
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        rows: NDArray[np.int64],
        first: NDArray[np.int64],
    ) -> None:
        """Copy caches to the rows ``wanting`` from slots that hold a longer beginning of them; updates ``first``."""
        width = tokens.shape[1]
        sources, targets, counts, members = [], [], [], []
        for row in wanting:
            same = self._tokens[:, :width] == tokens[row]
            same &= np.arange(width) < np.minimum(self._cached, lengths[row] - 1)[:, None]
            held = np.logical_and.accumulate(same, axis=1).sum(axis=1)
            best = int(held.argmax())
            if held[best] > first[row]:
                sources.append(best)
                targets.append(int(rows[row]))
                counts.append(int(held[best]))
                members.append(row)
                first[row] = held[best]
        if targets:
            self._cache.copy(self._places[sources], self._places[targets], max(counts))
            self._tokens[targets, :width] = tokens[members]
            self._cached[targets] = counts

    # --- feeding ------------------------------------------------------------------------------------------------------

    def _feed(self, rows: NDArray[np.int64], first: NDArray[np.int64]) -> torch.Tensor:
        """Feed each row's tokens from ``first`` on; hidden states ``(B, D)`` after the last one."""
        new = self._cached[rows] - first
        going_on = np.flatnonzero(new == 1)
        longer = np.flatnonzero(new > 1)
        blocks: list[tuple[Block, NDArray[np.int64], NDArray[np.int64]]] = []
        if len(going_on):
            self._gather(rows[going_on])
            blocks.append(self._step_block(rows[going_on], going_on))
        for part in self._prompt_parts(longer, new):
            blocks.append(self._prompt_block(rows[part], first[part], part))
        of_blocks = self._forward([block for block, _, _ in blocks])
        hidden = of_blocks[0].new_empty(len(rows), of_blocks[0].shape[-1])
        for states, (_, places, answers) in zip(of_blocks, blocks, strict=True):
            at = torch.as_tensor(places, device=states.device)
            last = torch.as_tensor(self._cached[rows[answers]] - 1 - first[answers], device=states.device)
            hidden[torch.as_tensor(answers, device=states.device)] = states[at, last]
        return hidden

    def _gather(self, rows: NDArray[np.int64]) -> None:
        """Bring slots that are asked for to the front of the cache where too many others stand between them."""
        if int(self._places[rows].max()) + 1 <= max(16, len(rows) + len(rows) // 4):
            return
        behind = rows[self._places[rows] >= len(rows)]
        front = np.ones(len(rows), np.bool_)
        inside = self._places[rows]
        front[inside[inside < len(rows)]] = False
        there = np.flatnonzero(front)
        old, others = self._places[behind], self._owners[there]
        longest = int(self._cached[np.concatenate([behind, others])].max())
        self._cache.copy(np.concatenate([old, there]), np.concatenate([there, old]), longest)
        self._places[behind], self._places[others] = there, old
        self._owners[there], self._owners[old] = behind, others

    def _step_block(
        self, rows: NDArray[np.int64], answers: NDArray[np.int64]
    ) -> tuple[Block, NDArray[np.int64], NDArray[np.int64]]:
        """The last token of each row; with it where in the block each row stands, and which answer it is."""
        places, last = self._places[rows], self._cached[rows] - 1
        size, grain = round_up(int(places.max()) + 1, 16), 16
        if self._recorded is not None:
            size, grain = 1 << (size - 1).bit_length(), 128
        size = min(size, self.num_slots)
        tokens, positions = np.zeros((2, size, 1), np.int64)
        # Rows that were not asked for write where nobody looks.
        targets = np.full((size, 1), self.max_length)
        tokens[places, 0], positions[places, 0], targets[places, 0] = self._tokens[rows, last], last, last
        length = min(round_up(int(last.max()) + 1, grain), self.max_length)
        return self._block(tokens, positions, None, targets, length, fresh=False), places, answers

    def _prompt_parts(self, longer: NDArray[np.int64], new: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows with more than one new token, in groups of similar length that pass through the model together."""
        parts: list[list[int]] = []
        for row in longer[np.argsort(new[longer], kind="stable")]:
            width = round_up(int(new[row]), 8)
            if not parts or (len(parts[-1]) + 1) * width > _PREFILL_TOKENS or width > 2 * new[parts[-1][0]] + 8:
                parts.append([])
            parts[-1].append(int(row))
        return [np.array(part) for part in parts]

    def _prompt_block(
        self, rows: NDArray[np.int64], first: NDArray[np.int64], answers: NDArray[np.int64]
    ) -> tuple[Block, NDArray[np.int64], NDArray[np.int64]]:
        """All new tokens of some rows; what fills up a short row is written where nobody looks."""
        lengths = self._cached[rows]
        width = round_up(int((lengths - first).max()), 8)
        positions = first[:, None] + np.arange(width)
        targets = np.where(positions < lengths[:, None], positions, self.max_length)
        positions = np.minimum(positions, lengths[:, None] - 1)
        tokens = np.take_along_axis(self._tokens[rows], positions, axis=1)
        fresh = not first.any()
        length = width if fresh else min(round_up(int(lengths.max()), 16), self.max_length)
        block = self._block(tokens, positions, self._places[rows], targets, length, fresh=fresh)
        return block, np.arange(len(rows)), answers

    def _block(
        self,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        places: NDArray[np.int64] | None,
        targets: NDArray[np.int64],
        length: int,
        *,
        fresh: bool,
    ) -> Block:
        device = self.model.get_input_embeddings().weight.device
        # Among themselves tokens see those before them, whatever fills up the row comes after.
        seen_from = np.arange(length)[None] if fresh else positions
        visible = (np.arange(length) <= seen_from[..., None])[:, None]
        return Block(
            tokens=torch.as_tensor(tokens, device=device),
            positions=torch.as_tensor(positions, device=device),
            places=None if places is None else torch.as_tensor(places, device=device),
            targets=torch.as_tensor(targets, device=device),
            visible=torch.as_tensor(visible, device=device).expand(len(tokens), -1, -1, -1),
            fresh=fresh,
        )

    def _forward(self, blocks: list[Block]) -> list[torch.Tensor]:
        """Hidden states ``(b, s, D)`` of each block."""
        if self._recorded is not None and len(blocks) == 1 and blocks[0].places is None:
            return [self._recorded.hidden(blocks[0])]
        if self._packed is not None:
            states: list[torch.Tensor] = []
            while blocks:
                sizes = np.cumsum([block.tokens.numel() for block in blocks])
                count = max(1, int((sizes <= _PREFILL_TOKENS + self.num_slots).sum()))
                states += self._packed.hidden(blocks[:count], self._cache)
                blocks = blocks[count:]
            return states
        return [self._transformers_forward(block) for block in blocks]

    def _transformers_forward(self, block: Block) -> torch.Tensor:
        mask: Any = self._as_added(block.visible)
        if self._window is not None:
            keys = torch.arange(block.visible.shape[-1], device=block.visible.device)
            positions = block.positions[:, None, :, None]
            near = positions - keys < self._window
            if "chunked_attention" in self._layer_types():
                near = positions // self._window == keys // self._window
            mask = self._by_layer_type(self._as_added(block.visible), self._as_added(block.visible & near))
        self._cache.block = block
        output = trunk_of(self.model)(
            input_ids=block.tokens,
            attention_mask=mask,
            position_ids=block.positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def _as_added(self, visible: torch.Tensor) -> torch.Tensor:
        """A mask in the form that the model's attention takes."""
        if self.model.config._attn_implementation != "eager":
            return visible
        dtype = self.model.get_input_embeddings().weight.dtype  # plain attention adds its mask to the scores
        added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return added.masked_fill_(~visible, torch.finfo(dtype).min)

    def _layer_types(self) -> set[str]:
        return set(getattr(text_config(self.model.config), "layer_types", None) or ["sliding_attention"])

    def _by_layer_type(self, everything: torch.Tensor, near: torch.Tensor) -> Any:
        """Masks of a model with sliding windows: one, or one for each type of layer that it has."""
        types = self._layer_types()
        if len(types) == 1:
            return everything if types == {"full_attention"} else near
        return {name: everything if name == "full_attention" else near for name in types}
