"""sb3-contrib's MaskablePPO trains a language model that may not say everything.

    python -m examples.sb3_maskable_ppo

Answers must be complete (no end before the fourth letter). A mask keeps the policy from wasting actions on what is not
allowed; the environment refuses masked actions.
"""

from typing import Any

import gymnasium as gym
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from agents.sb3 import MaskableSequenceRolloutBuffer, MaskableTextPolicy, as_vec_env
from examples.sb3_ppo import tiny_llama


def main(steps: int = 12_000, seed: int = 0) -> float:
    """Train; returns the mean reward of sampled answers (the best possible is 1)."""
    envs = VecMonitor(as_vec_env(gym.make_vec("textenv/Toy-v0", num_envs=32, min_new_tokens=4)))
    model = MaskablePPO(
        MaskableTextPolicy,
        envs,
        policy_kwargs={"policy": tiny_llama(seed)},
        rollout_buffer_class=MaskableSequenceRolloutBuffer,
        learning_rate=lambda left: 3e-3 * left,
        n_steps=16,
        batch_size=128,
        n_epochs=4,
        gamma=1.0,
        seed=seed,
        device="cpu",
    )
    model.learn(steps)
    reward: Any = evaluate_policy(model, envs, n_eval_episodes=100, deterministic=False)[0]
    return float(reward)


if __name__ == "__main__":
    print(f"{main():.3f} of 1")
