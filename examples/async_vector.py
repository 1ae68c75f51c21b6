"""Environments in processes of their own.

    python -m examples.async_vector

Every process loads its own reward and scores its own answers: worth it where a single step is slow (a search, a tool,
another service). A reward model belongs in one process, with ``make_vec``'s own vector environment in front of it.
"""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv

ENV_ID = "textenv:textenv/Toy-v0"  # the prefix imports textenv in the process that makes the environment


def through_gymnasium(steps: int = 200) -> float:
    """Random tokens in Gymnasium's ``AsyncVectorEnv``; returns the mean score of the answers."""
    envs = gym.make_vec(
        ENV_ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )
    envs.reset(seed=0)
    envs.action_space.seed(0)
    scores: list[float] = []
    for _ in range(steps):
        _, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        scores += rewards[terminated | truncated].tolist()
    envs.close()
    return float(np.mean(scores))


def main(steps: int = 24_000) -> float:
    """PPO over SB3's subprocesses; returns the mean reward of greedy answers (the best possible is 1)."""
    envs = make_vec_env(ENV_ID, n_envs=4, seed=0, vec_env_cls=SubprocVecEnv)
    settings = {"n_steps": 128, "batch_size": 128, "gamma": 1.0, "seed": 0, "device": "cpu"}
    model = PPO("MlpPolicy", envs, learning_rate=lambda left: 3e-3 * left, **settings)
    model.learn(steps)
    reward, _ = evaluate_policy(model, envs, n_eval_episodes=50)
    envs.close()
    return float(np.mean(reward))


if __name__ == "__main__":
    print(f"random tokens: {through_gymnasium():.3f}, PPO: {main():.3f} of 1")
