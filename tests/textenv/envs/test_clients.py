"""Stable-Baselines3 and sb3-contrib algorithms take our environments unchanged; tests/compat has slower clients."""

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from benchmarks import env_overhead

ON_POLICY = {"n_steps": 16}
ALGORITHMS = {
    "PPO": (sb3.PPO, ON_POLICY | {"batch_size": 16, "n_epochs": 1}),
    "A2C": (sb3.A2C, {}),
    "DQN": (sb3.DQN, {"learning_starts": 8, "buffer_size": 100}),
    "MaskablePPO": (sb3_contrib.MaskablePPO, ON_POLICY | {"batch_size": 16, "n_epochs": 1}),
    "TRPO": (sb3_contrib.TRPO, ON_POLICY | {"batch_size": 16}),
    "QRDQN": (sb3_contrib.QRDQN, {"learning_starts": 8, "buffer_size": 100}),
}


@pytest.mark.parametrize("observation", ["tokens", "dict"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_trains_and_is_evaluated(name, observation):
    algorithm, settings = ALGORITHMS[name]
    env = Monitor(gym.make("textenv/Toy-v0", observation=observation))
    policy = "MlpPolicy" if observation == "tokens" else "MultiInputPolicy"
    model = algorithm(policy, env, **settings, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    model.learn(32)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=3)
    assert 0.0 <= float(np.mean(mean)) <= 1.0


@pytest.mark.slow
def test_overhead_stays_within_its_bounds():
    missed = ["not measured"]
    for _ in range(3):  # other tests run beside it
        missed = env_overhead.misses(env_overhead.measure(rounds=3), undisturbed=False)
        if not missed:
            break
    assert missed == []


def test_overhead_bounds_are_checked():
    good = {
        "sync_ratio_64": 30.0,
        "sync_ratio_1024": 80.0,
        "token_steps_per_second_1024": 2e6,
        "growth_vector": 1.0,
        "growth_single": 1.1,
    }
    assert env_overhead.misses(good) == []
    missed = env_overhead.misses(good | {"growth_single": 2.0, "sync_ratio_64": 3.0})
    assert missed == [
        "sync_ratio_64 is 3, expected at least 20",
        "growth_single is 2, expected at most 1.25",
    ]
