"""TorchRL: its collector, its GAE and its PPO loss on our vector environment.

python -m examples.torchrl_ppo
"""

# The library is not installed where types are checked.
# pyright: reportMissingImports=false

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import textenv  # registers the environments


class TokenNet(nn.Module):
    """Tokens to numbers, one-hot."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(25, 64), nn.Tanh(), nn.Linear(64, outputs))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Outputs, shape ``(…, outputs)``."""
        return self.net(nn.functional.one_hot(tokens, 5).flatten(-2).float())


def main(frames: int = 40_000, seed: int = 0) -> float:
    """Train on Toy-v0; returns the mean reward of the last batch's answers (the best possible is 1)."""
    torch.manual_seed(seed)
    # TorchRL takes SAME_STEP or DISABLED; without the flag it one-hot encodes actions, V numbers per token.
    envs = gym.make_vec("textenv/Toy-v0", num_envs=16, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    env = GymWrapper(envs, categorical_action_encoding=True)
    env.set_seed(seed)
    actor = ProbabilisticActor(
        TensorDictModule(TokenNet(4), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
        spec=env.action_spec,
    )
    critic = ValueOperator(TokenNet(1), in_keys=["observation"])
    loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.003, critic_coeff=0.5, normalize_advantage=True)
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)
    collector = Collector(env, actor, frames_per_batch=1024, total_frames=frames)
    mean = 0.0
    for data in collector:
        with torch.no_grad():
            advantage(data)
        flat = data.reshape(-1)
        for _ in range(4):
            for rows in torch.randperm(len(flat)).split(256):
                losses = loss_module(flat[rows])
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
        mean = float(data["next", "reward"][data["next", "done"]].mean())
    collector.shutdown()
    return mean


if __name__ == "__main__":
    print(f"{textenv.__name__}: {main():.3f} of 1")
