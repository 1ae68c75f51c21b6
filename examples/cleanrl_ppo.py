"""PPO in one file, in the manner of CleanRL.

python -m examples.cleanrl_ppo --total-timesteps 40000
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


@dataclass
class Args:
    """CleanRL's names."""

    env_id: str = "textenv:textenv/Toy-v0"
    seed: int = 1
    total_timesteps: int = 40_000
    learning_rate: float = 2.5e-3
    num_envs: int = 16
    num_steps: int = 64
    gamma: float = 1.0
    gae_lambda: float = 0.95
    num_minibatches: int = 4
    update_epochs: int = 4
    clip_coef: float = 0.2
    ent_coef: float = 0.003


def layer_init(layer: nn.Linear, std: float = 2**0.5) -> nn.Linear:
    """Orthogonal weights, zero bias."""
    nn.init.orthogonal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Actor and critic over an embedding of the tokens."""

    def __init__(self, envs: Any) -> None:
        super().__init__()
        vocabulary = int(envs.single_observation_space.high.max()) + 1
        width = envs.single_observation_space.shape[0] * 8
        self.embedding = nn.Sequential(nn.Embedding(vocabulary, 8), nn.Flatten())
        self.critic = nn.Sequential(layer_init(nn.Linear(width, 64)), nn.Tanh(), layer_init(nn.Linear(64, 1), 1.0))
        head = layer_init(nn.Linear(64, envs.single_action_space.n), 0.01)
        self.actor = nn.Sequential(layer_init(nn.Linear(width, 64)), nn.Tanh(), head)

    def get_value(self, x: torch.Tensor) -> torch.Tensor:
        """Values, shape ``(n,)``."""
        return self.critic(self.embedding(x)).squeeze(-1)

    def get_action_and_value(self, x: torch.Tensor, action: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Action, log-prob, entropy, value."""
        probs = Categorical(logits=self.actor(self.embedding(x)))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.get_value(x)


def main(args: Args | None = None) -> float:
    """Train; returns the mean return of the last 200 episodes."""
    args = Args() if args is None else args
    torch.manual_seed(args.seed)
    # NEXT_STEP, Gymnasium's default, would add a transition per episode in which nothing happens.
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs, buffer_length=200)
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0])
    iterations, began = max(1, args.total_timesteps // (args.num_envs * args.num_steps)), time.time()
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = (1 - iteration / iterations) * args.learning_rate
        rollout = []
        with torch.no_grad():
            for _ in range(args.num_steps):
                action, logprob, _, value = agent.get_action_and_value(next_obs)
                following, reward, terminated, truncated, _ = envs.step(action.numpy())
                done = torch.as_tensor(terminated | truncated).float()
                rollout.append((next_obs, action, logprob, torch.as_tensor(reward).float(), done, value))
                next_obs = torch.as_tensor(following)
            obs, actions, logprobs, rewards, dones, values = (torch.stack(x) for x in zip(*rollout, strict=True))
            advantages, last = torch.zeros_like(rewards), torch.zeros(args.num_envs)
            next_value = agent.get_value(next_obs)
            for t in reversed(range(args.num_steps)):
                delta = rewards[t] + args.gamma * next_value * (1 - dones[t]) - values[t]
                advantages[t] = last = delta + args.gamma * args.gae_lambda * (1 - dones[t]) * last
                next_value = values[t]
        batch = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, advantages + values)]
        for _ in range(args.update_epochs):
            for rows in torch.randperm(len(batch[0])).chunk(args.num_minibatches):
                b_obs, b_actions, b_logprobs, b_advantages, b_returns = (x[rows] for x in batch)
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs, b_actions)
                ratio = (newlogprob - b_logprobs).exp()
                scaled = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                pg_loss = torch.max(-scaled * ratio, -scaled * clipped).mean()
                v_loss = 0.25 * (newvalue - b_returns).pow(2).mean()
                loss = pg_loss - args.ent_coef * entropy.mean() + v_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    envs.close()
    print(f"{args.total_timesteps / (time.time() - began):.0f} steps/s, return {np.mean(envs.return_queue):.3f}")
    return float(np.mean(envs.return_queue))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
