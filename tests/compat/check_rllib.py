"""RLlib: one PPO iteration of its new API stack on float32 observations; the example learns."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import os
import sys
import warnings


def make(config: dict) -> object:
    """One environment; runs in RLlib's worker processes too."""
    import gymnasium as gym

    return gym.make("textenv:textenv/Toy-v0", obs_dtype="float32", **config)


def main() -> None:
    """Trains for one iteration."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a local run needs no token in the home folder
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    register_env("textenv-toy", make)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        config = (
            PPOConfig()
            .environment("textenv-toy")
            .env_runners(num_env_runners=0, num_envs_per_env_runner=2)
            .learners(num_learners=0)
            .training(train_batch_size_per_learner=256, minibatch_size=64, num_epochs=1)
        )
        algorithm = config.build_algo()
        result = algorithm.train()
        mean = float(result["env_runners"]["episode_return_mean"])
        assert 0.0 <= mean <= 1.0
        sys.stdout.write(f"one iteration, mean return {mean:.3f}\n")
        algorithm.stop()
    finally:
        ray.shutdown()
    from examples import rllib_ppo

    reward = rllib_ppo.main()
    sys.stdout.write(f"example: {reward:.3f} of 1\n")
    assert reward >= 0.95


if __name__ == "__main__":
    main()
