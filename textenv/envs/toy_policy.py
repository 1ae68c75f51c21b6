"""A :class:`ToyMDP` as a language model: what the sampling methods need of a policy, with every answer known.

Importing this module loads torch; the rest of the toy problems does without.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.envs.toy_mdp import ENDED, EOS, ToyMDP, ToyVocabulary
from textenv.envs.toy_oracle import Table
from textenv.errors import ShapeError


class ToyTokenModel:
    """Next-token logits from a table (:class:`textenv.protocols.TokenModel`); nothing needs a cache.

    Args:
        mdp: The problem.
        table: Probabilities, shape ``(S, V)``.
    """

    def __init__(self, mdp: ToyMDP, table: Table) -> None:
        self.mdp = mdp
        with np.errstate(divide="ignore"):  # log 0 = −inf is what an impossible token must have
            self._logits = np.log(table)

    def logits(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> torch.Tensor:
        """Log-probabilities of the next token, float64, shape ``(B, V)``.

        Raises:
            ShapeError: If an answer has ended already.
        """
        del rows
        states = (tokens[:, 0] - 1) * self.mdp.states_per_prompt
        for place in range(1, int(lengths.max())):
            inside = place < lengths
            states[inside] = self.mdp.next_states[states[inside], tokens[inside, place]]
            if (states[inside] == ENDED).any():
                row = int(np.flatnonzero(inside & (states == ENDED))[0])
                raise ShapeError(f"row {row} has ended: nothing follows {tokens[row, : lengths[row]].tolist()}")
        return torch.from_numpy(self._logits[states])

    def fork(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Nothing to do."""


class ToyGenerativePolicy:
    """A policy table that samples text (:class:`textenv.protocols.GenerativePolicy`).

    Ask it for answers with ``max_new_tokens`` equal to the problem's horizon.

    Args:
        mdp: The problem.
        table: Probabilities, shape ``(S, V)``; None means the reference policy.

    Raises:
        ShapeError: If the table has the wrong shape.
    """

    def __init__(self, mdp: ToyMDP, table: Table | None = None) -> None:
        table = mdp.ref_probs if table is None else table
        if table.shape != mdp.rewards.shape:
            raise ShapeError(f"the policy has shape {table.shape}, expected {mdp.rewards.shape} (states, tokens)")
        self.mdp = mdp
        self.table = table
        self.tokenizer = ToyVocabulary(mdp.vocab_size, mdp.has_eos)
        self.vocab_size = mdp.vocab_size
        self.context_length: int | None = 1 + mdp.horizon

    @property
    def prompts(self) -> list[str]:
        """The problem's prompts as texts."""
        return [self.tokenizer.decode([i + 1]) for i in range(self.mdp.num_prompts)]

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt."""
        return self.tokenizer.encode(prompt)

    def slot_engine(self, num_slots: int, max_length: int) -> ToyTokenModel:
        """A model for any number of rows."""
        del num_slots, max_length
        return ToyTokenModel(self.mdp, self.table)

    def reward(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Total reward of answers given as texts; a reward function."""
        rewards = []
        for prompt, response in zip(prompts, responses, strict=True):
            tokens = self.tokenizer.encode(response)
            if self.mdp.has_eos and len(tokens) < self.mdp.horizon:
                tokens = [*tokens, EOS]
            rewards.append(sum(self.mdp.token_rewards(self.encode_prompt(prompt)[0] - 1, tokens)))
        return rewards
