"""``SequenceRolloutBuffer``: rollouts as whole sequences, so that an update scores each in one forward pass.

Stock ``PPO.train`` treats observations as opaque: this buffer, a ``rollout_buffer_class``, hands over
:class:`agents.SequenceBatch` objects, which :class:`agents.sb3.TextPolicy` recognises. SB3's own buffer stores every
prefix of an answer and lets each go through the model again; this one stores a sequence once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from agents.policy.forward import SequenceBatch
from agents.sb3.rows import Rows, read_rows
from textenv.errors import ShapeError
from textenv.wrappers.kl import reference_beta


class SequenceStore:
    """The sequences of a rollout, each stored once, and where in them every action stands.

    A sequence is what one slot's rows grow into: it ends where the episode ends, and wherever a row is no continuation
    of the one before (a restored state, a changed prompt).

    Args:
        num_steps: Steps of the rollout.
        num_envs: Slots.
        width: Longest row in tokens.
    """

    def __init__(self, num_steps: int, num_envs: int, width: int) -> None:
        self._rows = np.zeros((num_envs, width + 1), np.int64)  # one more: the last action of a full row
        self._lengths = np.zeros(num_envs, np.int64)
        self._running = np.full(num_envs, -1)
        self._finished: list[NDArray[np.int64]] = []
        self.sequences = np.full((num_steps, num_envs), -1)
        """Number of the sequence that each action belongs to, ``(num_steps, num_envs)``."""
        self.places = np.zeros((num_steps, num_envs), np.int64)
        """Position of each action in its sequence, ``(num_steps, num_envs)``."""

    def add(self, step: int, rows: Rows, actions: NDArray[np.int64]) -> None:
        """Take in one step of all slots.

        Args:
            step: Its number.
            rows: What stood before the actions.
            actions: The tokens chosen, shape ``(num_envs,)``.
        """
        width = rows.tokens.shape[1]
        known = np.arange(width) < self._lengths[:, None]
        goes_on = ((self._rows[:, :width] == rows.tokens) | ~known).all(1)
        goes_on &= (self._running >= 0) & (self._lengths <= rows.lengths)
        for slot in np.flatnonzero(~goes_on).tolist():
            self._finish(slot)
            self._running[slot] = len(self._finished)
            self._finished.append(self._rows[slot, :0])
        every = np.arange(len(actions))
        self._rows[:, :width] = rows.tokens
        self._rows[every, rows.lengths] = actions
        self._lengths = rows.lengths + 1
        self.sequences[step], self.places[step] = self._running, rows.lengths

    def _finish(self, slot: int) -> None:
        if self._running[slot] >= 0:
            self._finished[self._running[slot]] = self._rows[slot, : self._lengths[slot]].copy()

    def end_episodes(self, slots: NDArray[np.int64]) -> None:
        """These slots begin something new with their next row."""
        for slot in slots.tolist():
            self._finish(slot)
            self._running[slot] = -1

    def tokens(self) -> list[NDArray[np.int64]]:
        """All sequences so far, in the order of their numbers."""
        for slot in range(len(self._running)):
            self._finish(slot)
        return self._finished


class SequenceRolloutBuffer(RolloutBuffer):
    """A rollout buffer that yields whole sequences: ``PPO(TextPolicy, envs, rollout_buffer_class=…)``.

    A minibatch is made of sequences, drawn at random until they hold ``batch_size`` actions; so its size varies by a
    sequence. With all of a rollout in one minibatch (``batch_size=None`` as A2C and TRPO ask, or as large as the
    rollout) it is the stock buffer's, in another order. Advantages, returns and log-probs are the stock buffer's.

    Arguments are those of SB3's ``RolloutBuffer``. Do not use TRPO's ``sub_sampling_factor`` with it.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Empty the buffer."""
        shape = (self.buffer_size, self.n_envs)
        tokens = self.observation_space
        if isinstance(tokens, spaces.Dict):
            tokens = tokens["tokens"]
        assert tokens.shape is not None
        self.store = SequenceStore(*shape, tokens.shape[0])
        self.actions = np.zeros((*shape, self.action_dim), np.int64)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(shape, np.float32))
        self.generator_ready = False
        self.pos, self.full = 0, False

    def add(
        self,
        obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        episode_start: NDArray[Any],
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Take in one step of all slots; arguments as in SB3."""
        # A row that takes an action has room for it, so its last entry is padding, whatever the id of that is.
        last = np.asarray(obs["tokens"] if isinstance(obs, dict) else obs)[:, -1]
        if not (last == last[0]).all():
            raise ShapeError("rows of tokens must be padded on the right and leave room for the next token")
        actions = np.asarray(action).reshape(self.n_envs).astype(np.int64)
        self.store.end_episodes(np.flatnonzero(episode_start))
        self.store.add(self.pos, read_rows(obs, int(last[0])), actions)
        self.actions[self.pos, :, 0] = actions
        self.rewards[self.pos], self.episode_starts[self.pos] = reward, episode_start
        self.values[self.pos] = value.cpu().numpy().flatten()
        self.log_probs[self.pos] = log_prob.cpu().numpy().flatten()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[Any]) -> None:
        """Advantages and returns as in SB3; around a ``ReferenceLogProb`` of β the returns hold β times the entropy.

        The entropy of the token itself is taken out of its advantage again: the algorithm's bonus has its gradient.
        """
        beta = reference_beta(self.observation_space)
        self.rewards -= beta * self.log_probs
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages += beta * self.log_probs

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches of whole sequences, in random order."""
        for places, batch in self._minibatches(batch_size):
            actions, values, log_probs, advantages, returns = self._fields(places)
            yield RolloutBufferSamples(batch, actions, values, log_probs, advantages, returns)  # type: ignore[arg-type]  # a batch for tensors

    def _fields(self, places: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[torch.Tensor]:
        arrays = (self.actions[..., 0], self.values, self.log_probs, self.advantages, self.returns)
        return [self.to_torch(array[places]) for array in arrays]

    def _minibatches(
        self, batch_size: int | None
    ) -> Generator[tuple[tuple[NDArray[np.int64], NDArray[np.int64]], SequenceBatch], None, None]:
        """Steps and slots of a minibatch's actions, sequence by sequence, and the sequences."""
        assert self.full, "the rollout is not complete"
        tokens = self.store.tokens()
        slots, steps = np.divmod(np.arange(self.sequences.size), self.buffer_size)  # slot by slot, in order of time
        order = np.argsort(self.sequences[steps, slots], kind="stable")
        counts = np.bincount(self.sequences[steps, slots], minlength=len(tokens))
        ends = np.cumsum(counts)
        shuffled = np.random.permutation(len(tokens))  # noqa: NPY002 - SB3's generator: an algorithm's seed sets it
        for chosen in _groups(shuffled, counts, batch_size or self.sequences.size):
            members = np.concatenate([order[ends[i] - counts[i] : ends[i]] for i in chosen])
            where = (steps[members], slots[members])
            yield where, self._batch([tokens[i] for i in chosen], counts[chosen], self.store.places[where])

    @property
    def sequences(self) -> NDArray[np.int64]:
        """Number of the sequence that each action belongs to, ``(buffer_size, n_envs)``."""
        return self.store.sequences

    def _batch(
        self, tokens: list[NDArray[np.int64]], counts: NDArray[np.int64], places: NDArray[np.int64]
    ) -> SequenceBatch:
        lengths = np.array([len(row) for row in tokens])
        padded = np.zeros((len(tokens), -(-int(lengths.max()) // 8) * 8), np.int64)
        for row, ids in zip(padded, tokens, strict=True):
            row[: len(ids)] = ids
        firsts = places[np.cumsum(counts) - counts]
        mask = np.zeros((len(tokens), int((lengths - firsts).max())), np.bool_)
        owners = np.repeat(np.arange(len(tokens)), counts)
        mask[owners, places - firsts[owners]] = True
        return SequenceBatch.from_arrays(padded, firsts, lengths, mask, device=self.device)


def _groups(
    order: NDArray[np.int64], counts: NDArray[np.int64], batch_size: int
) -> Generator[NDArray[np.int64], None, None]:
    """Sequences in this order, in groups of about ``batch_size`` actions; a small rest joins the last group."""
    left, group, held = int(counts.sum()), [], 0
    for number in order.tolist():
        group.append(number)
        held += int(counts[number])
        if held >= batch_size and left - held >= batch_size / 2:
            yield np.array(group)
            left, group, held = left - held, [], 0
    yield np.array(group)
