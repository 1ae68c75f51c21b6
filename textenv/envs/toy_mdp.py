"""Small text-generation problems whose every state can be listed.

A state is a prompt and the tokens answered so far. All arrays are indexed by state and action, ``(S, V)``; states are
numbered prompt by prompt, short prefixes first. With ``V`` at most 8 and a horizon of at most 6 there are a few ten
thousand states per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from textenv.envs.task import TokenStep
from textenv.episode import Episode
from textenv.errors import ConfigError, ShapeError
from textenv.settings import PositiveInt, Settings

EOS = 0
"""The token that ends an answer, where the problem has one; the others follow from 1 on."""

ENDED = -1
"""Entry of ``next_states`` where the answer ends."""


@dataclass(frozen=True, eq=False)
class ToyMDP(Settings):
    """A text-generation problem small enough to enumerate.

    Attributes:
        vocab_size: Number of tokens ``V``, 2 to 8.
        horizon: Most tokens of an answer, 1 to 6.
        num_prompts: Number of prompts, drawn uniformly; prompt ``p`` is the single token ``p + 1``.
        has_eos: Whether token 0 ends an answer; otherwise every answer has ``horizon`` tokens.
        ref_probs: Reference policy, shape ``(S, V)``, rows sum to 1; None means uniform.
        rewards: Reward of taking an action in a state, shape ``(S, V)``; None means 0.

    Raises:
        ConfigError: If a size is out of range.
        ShapeError: If a table has the wrong shape, or a row of ``ref_probs`` is no distribution.
    """

    vocab_size: Annotated[int, Interval(ge=2, le=8)] = 4
    horizon: Annotated[int, Interval(ge=1, le=6)] = 4
    num_prompts: PositiveInt = 3
    has_eos: bool = True
    ref_probs: NDArray[np.float64] = None  # pyright: ignore[reportAssignmentType] - replaced in __post_init__
    rewards: NDArray[np.float64] = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        """Checks sizes and fills in the default tables."""
        super().__post_init__()
        if self.num_prompts >= self.vocab_size:
            raise ConfigError(f"`num_prompts` must be below `vocab_size` ({self.vocab_size}), got {self.num_prompts}")
        shape = (self.num_states, self.vocab_size)
        if self.ref_probs is None:
            object.__setattr__(self, "ref_probs", np.full(shape, 1.0 / self.vocab_size))
        if self.rewards is None:
            object.__setattr__(self, "rewards", np.zeros(shape))
        for name in ("ref_probs", "rewards"):
            table = np.asarray(getattr(self, name), dtype=np.float64)
            if table.shape != shape or not np.isfinite(table).all():
                raise ShapeError(f"{name} must be a finite array of shape {shape}, got shape {table.shape}")
            object.__setattr__(self, name, table)
        if (self.ref_probs < 0).any() or not np.allclose(self.ref_probs.sum(axis=1), 1.0):
            raise ShapeError("every row of ref_probs must be a distribution: not negative, summing to 1")

    # --- states -------------------------------------------------------------------------------------------------------

    @property
    def branching(self) -> int:
        """Number of tokens after which an answer goes on."""
        return self.vocab_size - 1 if self.has_eos else self.vocab_size

    @cached_property
    def level_starts(self) -> tuple[int, ...]:
        """First state of each prefix length 0 … horizon, relative to the prompt's first state."""
        starts = [0]
        for level in range(self.horizon):
            starts.append(starts[-1] + self.branching**level)
        return tuple(starts)

    @property
    def states_per_prompt(self) -> int:
        """Number of states of one prompt."""
        return self.level_starts[-1]

    @property
    def num_states(self) -> int:
        """Number of states ``S``."""
        return self.num_prompts * self.states_per_prompt

    @cached_property
    def next_states(self) -> NDArray[np.int64]:
        """State after each action, shape ``(S, V)``; ``ENDED`` where the answer ends."""
        first = 1 if self.has_eos else 0
        following = np.full((self.num_prompts, self.states_per_prompt, self.vocab_size), ENDED, dtype=np.int64)
        prompt_starts = np.arange(self.num_prompts)[:, None, None] * self.states_per_prompt
        for level in range(self.horizon - 1):
            start, end = self.level_starts[level], self.level_starts[level + 1]
            codes = np.arange(end - start)[:, None] * self.branching + np.arange(self.branching)
            following[:, start:end, first:] = prompt_starts + end + codes
        return following.reshape(self.num_states, self.vocab_size)

    def level(self, length: int) -> NDArray[np.int64]:
        """States of all prompts with this many answered tokens."""
        inside = np.arange(self.level_starts[length], self.level_starts[length + 1])
        return (np.arange(self.num_prompts)[:, None] * self.states_per_prompt + inside).ravel()

    @property
    def start_states(self) -> NDArray[np.int64]:
        """The state of each prompt before its first token, shape ``(num_prompts,)``."""
        return np.arange(self.num_prompts) * self.states_per_prompt

    def state_index(self, prompt_index: int, prefix: Sequence[int]) -> int:
        """Number of the state with this prompt and these tokens.

        Raises:
            ConfigError: If there is no such state.
        """
        state = prompt_index * self.states_per_prompt
        if not 0 <= prompt_index < self.num_prompts:
            raise ConfigError(f"there is no prompt {prompt_index}; there are {self.num_prompts}")
        for token in prefix:
            state = int(self.next_states[state, token])
            if state == ENDED:
                raise ConfigError(f"the answer {tuple(prefix)} ends before its last token, so it is no state")
        return state

    def states(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Prompt index and prefix of every state, in order."""
        first = 1 if self.has_eos else 0
        for prompt in range(self.num_prompts):
            for length in range(self.horizon):
                for code in range(self.branching**length):
                    digits = [code // self.branching ** (length - 1 - i) % self.branching for i in range(length)]
                    yield prompt, tuple(digit + first for digit in digits)

    def answers(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Prompt index and tokens of every complete answer."""
        for state, (prompt, prefix) in enumerate(self.states()):
            for token in np.flatnonzero(self.next_states[state] == ENDED).tolist():
                yield prompt, (*prefix, token)

    # --- rewards ------------------------------------------------------------------------------------------------------

    @cached_property
    def is_dense(self) -> bool:
        """Whether anything is paid before the last token."""
        return bool(self.rewards[self.next_states != ENDED].any())

    def token_rewards(self, prompt_index: int, response_ids: Sequence[int]) -> list[float]:
        """Reward of each token of an answer.

        Raises:
            ConfigError: If there is no such answer.
        """
        paid, state = [], self.state_index(prompt_index, ())
        for i, token in enumerate(response_ids):
            paid.append(float(self.rewards[state, token]))
            state = int(self.next_states[state, token])
            if state == ENDED and i + 1 < len(response_ids):
                raise ConfigError(f"the answer {tuple(response_ids)} ends before its last token")
        return paid

    def token_reward(self, step: TokenStep) -> NDArray[np.float64]:
        """What is paid at once for each token that does not end the answer; for the environment."""
        paid = np.zeros(len(step.rows))
        for i, slot in enumerate(step.rows):
            row = step.tokens[slot, : step.lengths[slot]].tolist()
            state = self.state_index(row[0] - 1, row[1:-1])
            if self.next_states[state, row[-1]] != ENDED:
                paid[i] = self.rewards[state, row[-1]]
        return paid

    # --- ready-made problems ------------------------------------------------------------------------------------------

    @classmethod
    def copying(cls, vocab_size: int = 4, horizon: int = 4) -> ToyMDP:
        """Repeat the prompt's token: the reward is the share of the horizon's places that hold it, so at best 1.

        The reference policy is uniform.

        Raises:
            ConfigError: If a size is out of range.
        """
        blank = cls(vocab_size, horizon, vocab_size - 1)
        rewards = np.zeros((blank.num_states, vocab_size))
        for state, (prompt, prefix) in enumerate(blank.states()):
            for token in np.flatnonzero(blank.next_states[state] == ENDED).tolist():
                rewards[state, token] = (*prefix, token).count(prompt + 1) / horizon
        return cls(vocab_size, horizon, vocab_size - 1, True, blank.ref_probs, rewards)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        vocab_size: int = 4,
        horizon: int = 3,
        num_prompts: int = 2,
        *,
        has_eos: bool = True,
        dense: bool = False,
    ) -> ToyMDP:
        """A random reference policy (flat Dirichlet) and standard-normal rewards, by default only where answers end.

        Raises:
            ConfigError: If a size is out of range.
        """
        blank = cls(vocab_size, horizon, num_prompts, has_eos)
        rewards = rng.normal(size=(blank.num_states, vocab_size))
        if not dense:
            rewards[blank.next_states != ENDED] = 0.0
        ref_probs = rng.dirichlet(np.ones(vocab_size), size=blank.num_states)
        return cls(vocab_size, horizon, num_prompts, has_eos, ref_probs, rewards)


class ToyReward:
    """Scores finished answers of a :class:`ToyMDP` by its table: the reward of the last token.

    Args:
        mdp: The problem.
    """

    def __init__(self, mdp: ToyMDP) -> None:
        self.mdp = mdp

    def score_episodes(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Scores, shape ``(n,)``."""
        return np.array([self.mdp.token_rewards(e.prompt_ids[0] - 1, e.response_ids)[-1] for e in episodes])


class ToyVocabulary:
    """Tokenizer of a :class:`ToyMDP`: token 0 is ``.`` and ends answers, the others are the letters from ``a`` on.

    Args:
        vocab_size: Number of tokens.
        has_eos: Whether token 0 ends answers.
    """

    pad_token_id: int | None = None

    def __init__(self, vocab_size: int, has_eos: bool = True) -> None:
        self.eos_token_id: int | None = EOS if has_eos else None
        self._letters = "." + "abcdefgh"[: vocab_size - 1]

    def __len__(self) -> int:
        return len(self._letters)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text of these letters.

        Raises:
            ConfigError: If another character occurs.
        """
        del add_special_tokens
        wrong = [character for character in text if character not in self._letters]
        if wrong:
            raise ConfigError(f"the toy vocabulary is {self._letters!r}; it has no {wrong[0]!r}")
        return [self._letters.index(character) for character in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Letters of token ids."""
        hidden = self.eos_token_id if skip_special_tokens else None
        return "".join(self._letters[i] for i in token_ids if i != hidden)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)
