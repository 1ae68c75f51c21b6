"""RLlib's new API stack: PPO on float32 observations.

    python -m examples.rllib_ppo

RLlib pins an older Gymnasium, so it lives in an environment of its own (``make compat ARGS=rllib``).
"""

# The library is not installed where types are checked.
# pyright: reportMissingImports=false

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a local run needs no token in the home folder; read on import

import gymnasium as gym
import numpy as np
import ray
from gymnasium.wrappers import FlattenObservation, TransformObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import textenv  # registers the environments


def make(config: dict) -> gym.Env:
    """Toy-v0 with one-hot tokens: RLlib's default encoder multiplies observations by a matrix."""
    env = gym.make("textenv:textenv/Toy-v0", obs_dtype="float32")
    table = np.eye(5, dtype=np.float32)
    space = gym.spaces.Box(0, 1, (5, 5), np.float32)
    return FlattenObservation(TransformObservation(env, lambda tokens: table[tokens.astype(int)], space))


def main(iterations: int = 24, seed: int = 0) -> float:
    """Train; returns the mean return of the last iteration's episodes (the best possible is 1)."""
    ray.init(num_cpus=1, include_dashboard=False, configure_logging=False, log_to_driver=False)
    register_env("textenv-toy", make)
    config = (
        PPOConfig()
        .environment("textenv-toy")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .learners(num_learners=0)
        .training(
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=4,
            lr=2e-3,
            gamma=1.0,
            lambda_=0.95,
            use_kl_loss=False,
            vf_loss_coeff=0.5,
        )
        .debugging(seed=seed)
    )
    try:
        algorithm = config.build_algo()
        result = {}
        for _ in range(iterations):
            result = algorithm.train()
        algorithm.stop()
        return float(result["env_runners"]["episode_return_mean"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    print(f"{textenv.__name__}: {main():.3f} of 1")
