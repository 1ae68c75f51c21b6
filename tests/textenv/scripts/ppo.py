"""PPO in one file, written against Gymnasium alone: ``python ppo.py textenv:textenv/Toy-v0 20000``."""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def train(env_id: str, total_steps: int, *, num_envs: int = 8, horizon: int = 64, seed: int = 0) -> float:
    """Trains and returns the mean return of the last 100 episodes."""
    torch.manual_seed(seed)
    envs: Any = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))] * num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    width = int(np.prod(envs.single_observation_space.shape))
    num_actions = int(envs.single_action_space.n)
    actor = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, num_actions))
    critic = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=2.5e-3)
    returns: list[float] = []
    observation = envs.reset(seed=seed)[0]
    for _ in range(total_steps // (num_envs * horizon)):
        rollout = []
        for _ in range(horizon):
            x = torch.as_tensor(observation, dtype=torch.float32)
            with torch.no_grad():
                distribution = torch.distributions.Categorical(logits=actor(x))
                action = distribution.sample()
                rollout.append([x, action, distribution.log_prob(action), critic(x)[:, 0]])
            observation, reward, terminated, truncated, infos = envs.step(action.numpy())
            over = torch.as_tensor(terminated | truncated, dtype=torch.float32)
            rollout[-1] += [torch.as_tensor(reward, dtype=torch.float32), over]
            if "final_info" in infos and "episode" in infos["final_info"]:
                episode = infos["final_info"]["episode"]
                returns += episode["r"][infos["final_info"]["_episode"]].tolist()
        x, action, logprob, value, reward, over = (torch.stack(column) for column in zip(*rollout, strict=True))
        with torch.no_grad():
            following = critic(torch.as_tensor(observation, dtype=torch.float32))[:, 0]
            advantage, last = torch.zeros_like(reward), torch.zeros(num_envs)
            for t in reversed(range(horizon)):
                delta = reward[t] + (1 - over[t]) * following - value[t]
                last = delta + 0.95 * (1 - over[t]) * last
                advantage[t], following = last, value[t]
        flat = [part.flatten(0, 1) for part in (x, action, logprob, advantage, advantage + value)]
        for _ in range(4):
            for rows in torch.randperm(num_envs * horizon).split(128):
                b_x, b_action, b_logprob, b_advantage, b_return = (part[rows] for part in flat)
                distribution = torch.distributions.Categorical(logits=actor(b_x))
                ratio = (distribution.log_prob(b_action) - b_logprob).exp()
                normalised = (b_advantage - b_advantage.mean()) / (b_advantage.std() + 1e-8)
                policy_loss = torch.max(-normalised * ratio, -normalised * ratio.clamp(0.8, 1.2)).mean()
                value_loss = 0.5 * (critic(b_x)[:, 0] - b_return).pow(2).mean()
                loss = policy_loss + value_loss - 0.01 * distribution.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
                optimizer.step()
    envs.close()
    return float(np.mean(returns[-100:]))


if __name__ == "__main__":
    sys.stdout.write(f"{train(sys.argv[1], int(sys.argv[2])):.3f}\n")
