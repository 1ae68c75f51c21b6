"""Stock learners on our environments: they run, they learn, and their critics stay where the truth is."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from tests.textenv.scripts import dqn, ppo
from textenv.envs import toy

TOY = "textenv:textenv/Toy-v0"


@pytest.mark.parametrize(("script", "steps"), [(ppo, 1024), (dqn, 700)], ids=["ppo", "dqn"])
def test_single_file_learner_runs(script, steps):
    assert 0.0 <= script.train(TOY, steps) <= 1.0


@pytest.mark.learning
@pytest.mark.parametrize(("script", "steps"), [(ppo, 40_000), (dqn, 20_000)], ids=["ppo", "dqn"])
def test_single_file_learner_copies_the_prompt(script, steps):
    """A uniformly random policy earns 0.17 here, the best one 1."""
    mdp = toy.make_mdp()
    assert toy.evaluate(mdp, mdp.ref_probs).expected_reward == pytest.approx(0.171, abs=1e-3)
    assert script.train(TOY, steps) >= 0.9


def always_one(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0] * len(responses)


def start_value(steps: int, **changes: Any) -> float:
    """Stock PPO's V(s0), the mean over prompts, at gamma 1 where every answer scores 1."""
    env = gym.make(
        "textenv/TextGeneration-v0",
        tokenizer=toy.ToyVocabulary(4, has_eos=False),
        prompts=["a", "b", "c"],
        reward=always_one,
        max_new_tokens=8,
        **changes,
    )
    model = PPO("MlpPolicy", env, gamma=1.0, n_steps=512, batch_size=128, seed=0, device="cpu")
    model.learn(steps)
    starts = np.stack([env.reset(options={"prompt_index": i})[0] for i in range(3)])
    with torch.no_grad():
        return float(model.policy.predict_values(torch.as_tensor(starts)).mean())


@pytest.mark.learning
def test_critic_stays_at_1_where_every_answer_scores_1():
    assert start_value(30_000) == pytest.approx(1.0, abs=0.05)
