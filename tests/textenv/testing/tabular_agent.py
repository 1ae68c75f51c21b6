"""Policy gradient on a table, right and in several wrong ways: what the conformance kit must tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textenv.envs.toy_mdp import ToyMDP
from textenv.envs.toy_oracle import softmax_policy
from textenv.testing import Problem
from textenv.testing.problems import state_rows


@dataclass
class Mistakes:
    """What the agent gets wrong."""

    kl_unit: float = 1.0
    kl_mean: bool = False
    shift: int = 0
    ignores_seed: bool = False
    unseeded: bool = False


class TabularAgent:
    """REINFORCE with a value table as baseline; the KL is paid with each token.

    Args:
        problem: What to learn.
        mistakes: What to get wrong.
        num_envs: Episodes side by side.
    """

    def __init__(self, problem: Problem, mistakes: Mistakes | None = None, num_envs: int = 50) -> None:
        self.problem, self.mistakes = problem, mistakes or Mistakes()
        seed = 0 if self.mistakes.ignores_seed else problem.seed
        self.rng = np.random.default_rng(None if self.mistakes.unseeded else seed)
        self.envs = problem.make_vec(num_envs)
        self.envs.reset(seed=seed)
        mdp: ToyMDP = problem.mdp
        rows, lengths = state_rows(mdp)
        self.states = {
            tuple(row[:length].tolist()): i for i, (row, length) in enumerate(zip(rows, lengths, strict=True))
        }
        self.logits = np.log(np.maximum(mdp.ref_probs, 1e-9))
        self.reference = self.logits.copy()
        self.values = np.zeros(mdp.num_states)
        self.moments = np.zeros((2, *self.logits.shape))
        self.pad = mdp.vocab_size

    def find(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self.states.get(tuple(i for i in row if i != self.pad), -1) for row in tokens.tolist()])

    def logprobs(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        states = [self.states[tuple(row[:length].tolist())] for row, length in zip(tokens, lengths, strict=True)]
        return np.log(softmax_policy(self.logits)[states])

    def learn(self, total_episodes: int) -> None:
        played, updates, count = 0, 0, self.envs.num_envs
        open_steps: list[list[tuple[int, int, float]]] = [[] for _ in range(count)]
        seen, _ = self.envs.reset()
        finished: list[list[tuple[int, int, float]]] = []
        while played < total_episodes:
            states = self.find(seen)
            cumulative = softmax_policy(self.logits[states]).cumsum(1)
            actions = (self.rng.random(count)[:, None] > cumulative[:, :-1]).sum(1)
            seen, rewards, terminated, truncated, _ = self.envs.step(actions)
            for slot in range(count):
                open_steps[slot].append((int(states[slot]), int(actions[slot]), float(rewards[slot])))
                if terminated[slot] or truncated[slot]:
                    finished.append(open_steps[slot])
                    open_steps[slot] = []
            if len(finished) >= 2 * count:
                updates, played = updates + 1, played + len(finished)
                self.update(finished, updates, 1.0 - min(played / total_episodes, 0.95))
                finished = []

    def update(self, episodes: list[list[tuple[int, int, float]]], number: int, rate: float) -> None:
        gradient = np.zeros_like(self.logits)
        policy = softmax_policy(self.logits)
        for episode in episodes:
            states, actions = (np.array([step[i] for step in episode]) for i in (0, 1))
            rewards = np.array([step[2] for step in episode])
            if self.mistakes.shift:  # what falls out on one side is lost
                rewards = np.roll(rewards, self.mistakes.shift)
                rewards[0 if self.mistakes.shift > 0 else -1] = 0.0
            ratio = np.log(policy[states, actions]) - softmax_log(self.reference)[states, actions]
            ratio = ratio * self.mistakes.kl_unit / (len(episode) if self.mistakes.kl_mean else 1)
            to_go = (rewards - self.problem.beta * ratio)[::-1].cumsum()[::-1]
            advantages = to_go - self.values[states]
            np.add.at(gradient, states, -advantages[:, None] * policy[states])
            np.add.at(gradient, (states, actions), advantages)
            self.values[states] += 0.05 * advantages
        gradient /= len(episodes)
        self.moments[0] = 0.9 * self.moments[0] + 0.1 * gradient
        self.moments[1] = 0.95 * self.moments[1] + 0.05 * gradient**2
        first, second = self.moments[0] / (1 - 0.9**number), self.moments[1] / (1 - 0.95**number)
        self.logits += 0.3 * rate * first / (np.sqrt(second) + 1e-4)


def softmax_log(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(softmax_policy(logits))
