"""DQN in one file, written against Gymnasium alone: ``python dqn.py textenv:textenv/Toy-v0 10000``."""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def train(env_id: str, total_steps: int, *, seed: int = 0) -> float:
    """Trains and returns the mean return of the last 100 episodes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
    width = int(np.prod(env.observation_space.shape or (1,)))
    num_actions = int(env.action_space.n)  # pyright: ignore[reportAttributeAccessIssue]

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_actions))

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    buffer: list[tuple] = []
    returns: list[float] = []
    observation, _ = env.reset(seed=seed)
    for step in range(total_steps):
        if rng.random() < max(0.05, 1 - 2 * step / total_steps):
            action = int(rng.integers(num_actions))
        else:
            action = int(online(torch.as_tensor(observation, dtype=torch.float32)).argmax())
        following, reward, terminated, truncated, info = env.step(action)
        buffer.append((observation, action, reward, following, terminated))
        observation = following
        if terminated or truncated:
            returns.append(float(info["episode"]["r"]))
            observation, _ = env.reset()
        if step >= 500 and step % 2 == 0:
            batch = [buffer[i] for i in rng.integers(len(buffer), size=64)]
            x, a, r, y, done = (torch.as_tensor(np.array(column)) for column in zip(*batch, strict=True))
            with torch.no_grad():
                goal = r.float() + (~done).float() * target(y.float()).max(dim=1).values
            value = online(x.float()).gather(1, a[:, None])[:, 0]
            loss = nn.functional.smooth_l1_loss(value, goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % 250 == 0:
            target.load_state_dict(online.state_dict())
    env.close()
    return float(np.mean(returns[-100:]))


if __name__ == "__main__":
    sys.stdout.write(f"{train(sys.argv[1], int(sys.argv[2])):.3f}\n")
