"""Tianshou: its collector and one PPO update on our environments, in its two kinds of vector; the example learns."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step

from examples import tianshou_ppo

ENV_ID = "textenv:textenv/Toy-v0"


def make() -> gym.Env:
    """One environment, known by its id alone."""
    return gym.make(ENV_ID)


def main() -> None:
    """Collects, updates and collects again."""
    for kind in (DummyVectorEnv, SubprocVectorEnv):
        envs, env = kind([make] * 4), make()
        net = Net(state_shape=env.observation_space.shape, hidden_sizes=[32])
        actor = DiscreteActor(preprocess_net=net, action_shape=env.action_space.n, softmax_output=False)
        policy = DiscreteActorPolicy(
            actor=actor, action_space=env.action_space, observation_space=env.observation_space
        )
        algorithm = PPO(
            policy=policy,
            critic=DiscreteCritic(preprocess_net=Net(state_shape=env.observation_space.shape, hidden_sizes=[32])),
            optim=AdamOptimizerFactory(lr=1e-3),
        )
        collector = Collector(algorithm, envs, VectorReplayBuffer(512, 4))
        collector.reset()
        found = collector.collect(n_step=256)
        with policy_within_training_step(algorithm.policy):
            algorithm.update(buffer=collector.buffer, batch_size=64, repeat=1)
        collector.reset()  # the buffer too: it would go on counting the episodes that were cut off
        again = collector.collect(n_episode=20)
        assert np.isfinite(found.returns).all()
        assert np.isfinite(again.returns).all()
        assert (np.asarray(again.lens) <= 4).all()
        envs.close()
        sys.stdout.write(f"{kind.__name__}: {found.n_collected_episodes + again.n_collected_episodes} episodes\n")
    reward = tianshou_ppo.main()
    sys.stdout.write(f"example: {reward:.3f} of 1\n")
    assert reward >= 0.95


if __name__ == "__main__":
    main()
