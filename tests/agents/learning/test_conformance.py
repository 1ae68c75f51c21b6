"""The conformance kit on our own agent: PPO passes what it asks of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents import PPO, PPOConfig
from tests.agents.tabular import TabularPolicy
from textenv.testing import Problem, check_agent
from textenv.testing.problems import state_rows


class NativePPO:
    """PPO on a table that starts at the reference."""

    def __init__(self, problem: Problem) -> None:
        self.policy = TabularPolicy(problem.mdp)
        config = PPOConfig(
            learning_rate=0.15,
            epochs=2,
            num_minibatches=2,
            kl_coef=problem.beta,
            clip_range_vf=None,
            vf_coef=0.5,
            seed=problem.seed,
        )
        envs = problem.make_vec(64, autoreset_mode=AutoresetMode.DISABLED)
        self.agent = PPO(self.policy, envs, config=config)
        self.rows = [row.tobytes() for row in state_rows(problem.mdp)[0]]

    def learn(self, total_episodes: int) -> Any:
        return self.agent.learn(total_episodes)

    def logprobs(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        states = [self.rows.index(row.tobytes()) for row in tokens]
        return np.log(self.policy.probabilities[states])


@pytest.mark.learning
def test_native_ppo_conforms():
    check_agent(NativePPO, raise_on_failure=True)


def test_native_ppo_is_decided_by_its_seed():
    names = ["same seed, same policy", "other seed, other policy"]
    assert check_agent(NativePPO, only=names, total_episodes=400).passed
