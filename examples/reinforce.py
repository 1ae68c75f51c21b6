"""REINFORCE in twenty lines over ``gymnasium.make_vec``.

python -m examples.reinforce
"""

import gymnasium as gym
import torch
from torch import nn

import textenv  # registers the environments


def main(updates: int = 150, seed: int = 0) -> float:
    """Train on Toy-v0; returns the mean reward of the last update's answers (the best possible is 1)."""
    torch.manual_seed(seed)
    envs = gym.make_vec("textenv/Toy-v0", num_envs=64, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    net = nn.Sequential(nn.Linear(25, 64), nn.Tanh(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    tokens, _ = envs.reset(seed=seed)
    mean = 0.0
    for _ in range(updates):
        logprobs, rewards, ended = [], [], []
        for _ in range(16):
            one_hot = nn.functional.one_hot(torch.as_tensor(tokens), 5).flatten(1).float()
            choice = torch.distributions.Categorical(logits=net(one_hot))
            actions = choice.sample()
            tokens, reward, terminated, truncated, _ = envs.step(actions.numpy())
            logprobs.append(choice.log_prob(actions))
            rewards.append(torch.as_tensor(reward, dtype=torch.float32))
            ended.append(torch.as_tensor(terminated | truncated))
        to_go = [torch.zeros(64)]
        for reward, over in zip(reversed(rewards), reversed(ended), strict=True):
            to_go.append(reward + to_go[-1] * ~over)
        returns = torch.stack(to_go[:0:-1])
        loss = -(torch.stack(logprobs) * (returns - returns.mean())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = float(torch.stack(rewards)[torch.stack(ended)].mean())
    envs.close()
    return mean


if __name__ == "__main__":
    print(f"{textenv.__name__}: {main():.3f} of 1")
