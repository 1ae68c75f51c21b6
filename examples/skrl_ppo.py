"""skrl: its PPO on our vector environment.

python -m examples.skrl_ppo
"""

# The library is not installed where types are checked.
# pyright: reportMissingImports=false

from typing import Any

import gymnasium as gym
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import nn

import textenv  # registers the environments


def token_net(outputs: int) -> nn.Module:
    """Over an embedding of the tokens."""
    return nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, outputs))


class Actor(CategoricalMixin, Model):
    """Chooses tokens."""

    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        CategoricalMixin.__init__(self)
        self.net = token_net(4)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits."""
        return self.net(inputs["observations"].long()), {}


class Critic(DeterministicMixin, Model):
    """Values."""

    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = token_net(1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[torch.Tensor, dict[str, Any]]:
        """Values."""
        return self.net(inputs["observations"].long()), {}


def main(steps: int = 2_400, seed: int = 0) -> float:
    """Train on Toy-v0 for so many steps of 16 slots; returns the mean reward of answers then (the best is 1)."""
    torch.manual_seed(seed)
    envs = gym.make_vec("textenv/Toy-v0", num_envs=16, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    env = wrap_env(envs, wrapper="gymnasium")  # "auto" knows only classes of Gymnasium itself
    config = PPO_CFG(
        rollouts=64,
        learning_epochs=4,
        mini_batches=4,
        discount_factor=1.0,
        learning_rate=3e-3,
        entropy_loss_scale=0.003,
        value_loss_scale=0.5,
    )
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Actor(env), "value": Critic(env)},
        memory=RandomMemory(memory_size=64, num_envs=16, device="cpu"),
        cfg=config,
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
    )
    settings = {"timesteps": steps, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=settings, env=env, agents=agent).train()
    rewards: list[float] = []
    tokens, _ = envs.reset(seed=seed)
    for _ in range(64):
        with torch.no_grad():
            actions, _ = agent.policy.act({"observations": torch.as_tensor(tokens)}, role="policy")
        tokens, reward, terminated, _, _ = envs.step(actions.squeeze(-1).numpy())
        rewards += reward[terminated].tolist()
    return sum(rewards) / len(rewards)


if __name__ == "__main__":
    print(f"{textenv.__name__}: {main():.3f} of 1")
