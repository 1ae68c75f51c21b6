"""Tianshou 2: its PPO on vectors of our environments.

python -m examples.tianshou_ppo
"""

# The library is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step

ENV_ID = "textenv:textenv/Toy-v0"


class OneHot(gym.ObservationWrapper[Any, Any, Any]):
    """Tokens as Tianshou's ``Net`` likes them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 1, (25,), np.float32)

    def observation(self, observation: Any) -> Any:
        """One row of the unit matrix per token."""
        return np.eye(5, dtype=np.float32)[observation].ravel()


def main(steps: int = 30_000, seed: int = 0) -> float:
    """Train on Toy-v0; returns the mean reward of sampled answers (the best possible is 1)."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - Tianshou draws from the global generator
    envs = DummyVectorEnv([lambda: OneHot(gym.make(ENV_ID))] * 16)
    envs.seed(seed)
    actor = DiscreteActor(
        preprocess_net=Net(state_shape=(25,), hidden_sizes=[64]), action_shape=4, softmax_output=False
    )
    policy = DiscreteActorPolicy(
        actor=actor, action_space=envs.action_space[0], observation_space=envs.observation_space[0]
    )
    algorithm = PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=Net(state_shape=(25,), hidden_sizes=[64])),
        optim=AdamOptimizerFactory(lr=3e-3),
        gamma=1.0,
        advantage_normalization=True,
    )
    collector = Collector(algorithm, envs, VectorReplayBuffer(1024, 16))
    collector.reset()
    for _ in range(max(1, steps // 1024)):
        collector.collect(n_step=1024)
        with policy_within_training_step(policy):
            algorithm.update(buffer=collector.buffer, batch_size=256, repeat=4)
        collector.reset_buffer(keep_statistics=True)
    collector.reset()
    found = collector.collect(n_episode=200)
    envs.close()
    return float(found.returns_stat.mean)


if __name__ == "__main__":
    print(f"{main():.3f} of 1")
