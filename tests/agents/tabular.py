"""A policy on Toy problems that can be any distribution, and whole distributions of answers as rollouts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from agents.learning.rollouts import Rollout
from agents.policy import CausalLMPolicy
from textenv.envs import toy
from textenv.envs.toy_mdp import ENDED, ToyMDP, ToyVocabulary
from textenv.episode import Episode, FinishReason


class Vocabulary(ToyVocabulary):
    """The toy vocabulary with an id for padding beyond its tokens, as policies want it."""

    def __init__(self, mdp: ToyMDP) -> None:
        super().__init__(mdp.vocab_size, mdp.has_eos)
        self.pad_token_id = mdp.vocab_size


class Table(nn.Module):
    """A row of weights for every state; stands where a transformer's trunk would."""

    def __init__(self, mdp: ToyMDP) -> None:
        super().__init__()
        self.following = torch.as_tensor(mdp.next_states)
        self.starts = torch.as_tensor(mdp.start_states)
        self.rows = nn.Parameter(torch.zeros(mdp.num_states + 1, mdp.vocab_size + 1, dtype=torch.float64))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        over = len(self.rows) - 1
        states = [self.starts[(input_ids[:, 0] - 1).clamp(0, len(self.starts) - 1)]]
        for t in range(1, input_ids.shape[1]):
            after = self.following[states[-1].clamp(max=over - 1), input_ids[:, t].clamp(max=self.rows.shape[1] - 2)]
            states.append(torch.where((states[-1] == over) | (after == ENDED), over, after))
        return SimpleNamespace(last_hidden_state=self.rows[torch.stack(states, 1)])


class TabularLM(nn.Module):
    """Logits of every state in a table, beside a column of values that the output embedding leaves out."""

    def __init__(self, mdp: ToyMDP, logits: np.ndarray) -> None:
        super().__init__()
        size = mdp.vocab_size
        self.config = SimpleNamespace(vocab_size=size, max_position_embeddings=None, is_encoder_decoder=False)
        self.base_model = Table(mdp)
        self.head = nn.Linear(size + 1, size, bias=False, dtype=torch.float64)
        self.head.requires_grad_(False)
        with torch.no_grad():
            self.base_model.rows[:-1, :size] = torch.as_tensor(logits)
            self.head.weight.copy_(torch.eye(size + 1)[:size])
        self.dtype = torch.float64

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(weight=self.base_model.rows)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids).last_hidden_state))


class TabularPolicy(CausalLMPolicy):
    """A policy with a logit for every state and token and a value for every state, float64."""

    def __init__(self, mdp: ToyMDP, logits: np.ndarray | None = None, values: np.ndarray | None = None) -> None:
        start = np.log(mdp.ref_probs) if logits is None else logits
        super().__init__(TabularLM(mdp, start), Vocabulary(mdp))
        self.mdp = mdp
        assert self.value_head is not None
        self.value_head.to(torch.float64).requires_grad_(False)
        with torch.no_grad():
            self.value_head.weight[0, -1] = 1.0
            if values is not None:
                self.model.base_model.rows[:-1, -1] = torch.as_tensor(values)

    @property
    def logits(self) -> np.ndarray:
        return self.model.base_model.rows[:-1, :-1].detach().numpy().copy()

    @property
    def probabilities(self) -> np.ndarray:
        return toy.softmax_policy(self.logits)

    def slot_engine(self, num_slots: int, max_length: int) -> Any:
        return WholeRows(self.model)


class WholeRows:
    """A token model without a cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def logits(self, tokens: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        out = self.model(torch.as_tensor(tokens)).logits
        return out[torch.arange(len(out)), torch.as_tensor(lengths) - 1]

    def fork(self, sources: np.ndarray, targets: np.ndarray) -> None:
        pass

    def drop(self) -> None:
        pass


def every_answer(mdp: ToyMDP, policy: TabularPolicy) -> tuple[Rollout, torch.Tensor]:
    """All answers that there are as one rollout, and their probabilities, the prompt drawn uniformly."""
    distribution = toy.answer_distribution(mdp, policy.probabilities)
    answers = list(distribution)
    tokens = np.full((len(answers), 1 + mdp.horizon), mdp.vocab_size, np.int64)
    rewards = np.zeros((len(answers), mdp.horizon), np.float64)
    for row, (prompt, answer) in enumerate(answers):
        tokens[row, : 1 + len(answer)] = [prompt + 1, *answer]
        rewards[row, : len(answer)] = mdp.token_rewards(prompt, answer)
    lengths = np.array([1 + len(answer) for _, answer in answers])
    mask = np.arange(mdp.horizon) < (lengths - 1)[:, None]
    episodes = [
        Episode("", prompt, (prompt + 1,), "", answer, FinishReason.EOS, float(rewards[row].sum()))
        for row, (prompt, answer) in enumerate(answers)
    ]
    rollout = Rollout(
        tokens=tokens,
        prompt_lengths=np.ones(len(answers), np.int64),
        lengths=lengths,
        action_mask=mask,
        rewards=rewards,
        behaviour_logprobs=np.zeros(mask.shape, np.float32),
        allowed=None,
        truncated=np.zeros(len(answers), np.bool_),
        episodes=episodes,
        seconds=0.0,
    )
    return rollout, torch.tensor([distribution[answer] for answer in answers], dtype=torch.float64) / mdp.num_prompts
