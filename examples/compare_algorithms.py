"""Every algorithm on one task with the same number of episodes, as one plot of reward against KL.

    python examples/compare_algorithms.py                                # a toy task, about a minute on one core
    python examples/compare_algorithms.py --policy runs/quickstart/sft --reward runs/quickstart/reward \
        --prompts runs/quickstart/samples.jsonl --episodes 12800 --learning_rate 1e-4 --kl_coef 0.05

The toy task is to repeat the prompt's letter. A small Llama starts by answering uniformly at random, so the best reward
at every KL is known and drawn as a line.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import agents
from reward_models import SequenceRewardModel
from textenv import TextGenerationVectorEnv
from textenv.envs import toy
from textenv.envs.toy_policy import ToyGenerativePolicy
from textenv.prompts import read_prompts
from textenv.trajectories.views.frontier import FrontierPoint, write_frontier

MDP = toy.make_mdp("copy", vocab_size=4, horizon=4)
ONLINE = [agents.PPO, agents.A2C, agents.ReinforcePP, agents.RLOO, agents.GRPO, agents.DrGRPO, agents.ExpertIteration]


class Task(NamedTuple):
    """What all algorithms start from."""

    policy: agents.CausalLMPolicy
    reward: Any
    prompts: list[str]
    sampling: agents.SamplingParams


def make_task(args: argparse.Namespace) -> Task:
    """The toy task, or a policy and a reward model from folders."""
    if args.policy:
        prompts = [prompt.text for prompt in read_prompts(args.prompts) if prompt.text]
        policy = agents.CausalLMPolicy.from_pretrained(args.policy)
        reward = SequenceRewardModel.from_pretrained(args.reward)
        return Task(policy, reward, prompts, agents.SamplingParams(max_new_tokens=32))
    torch.manual_seed(args.seed)
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=MDP.vocab_size + 1, intermediate_size=64, **size))
    torch.nn.init.zeros_(model.lm_head.weight)  # every letter is as likely as any other
    letters, known = toy.ToyVocabulary(MDP.vocab_size), ToyGenerativePolicy(MDP)
    letters.pad_token_id = MDP.vocab_size
    sampling = agents.SamplingParams(max_new_tokens=MDP.horizon)
    return Task(agents.CausalLMPolicy(model, letters), known.reward, known.prompts, sampling)


def learners(task: Task, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Each with a policy of its own; DPO gets as many answers of the start: the best of every four and the worst."""
    common = {"learning_rate": args.learning_rate, "seed": args.seed}
    for kind in ONLINE:
        policy, length = copy.deepcopy(task.policy), task.sampling.max_new_tokens
        envs = TextGenerationVectorEnv(
            args.num_envs, policy.tokenizer, task.prompts, task.reward, max_new_tokens=length, prompt_dealing="shared"
        )
        config = kind.config_type(**common, kl_coef=args.kl_coef, group_size=8)
        yield kind.__name__, kind(policy, envs, config=config)
    n = 4 * -(-args.episodes // (4 * len(task.prompts)))
    found = agents.evaluate_policy(task.policy, task.prompts, task.reward, sampling=task.sampling, n=n, seed=args.seed)
    for number, answer in enumerate(found.trajectories):
        answer.group_id = str(number // 4)
    config = agents.DPOConfig(**common, beta=args.kl_coef, batch_size=args.num_envs // 2, warmup_steps=0)
    pairs = agents.pairs_from_trajectories(found.trajectories)
    yield "DPO", agents.DPO(copy.deepcopy(task.policy), pairs, config=config)


def measure(name: str, policy: agents.CausalLMPolicy, task: Task, args: argparse.Namespace) -> FrontierPoint:
    """Mean reward and KL with their 95% intervals on as many answers for all."""
    sampling, n = task.sampling, -(-args.answers // len(task.prompts))
    found = agents.evaluate_policy(policy, task.prompts, task.reward, reference=task.policy, sampling=sampling, n=n)
    kl, error = found.kl.mean(), 1.96 * found.kl.std() / len(found.kl) ** 0.5
    low, high = found.summary["reward_mean_interval"]
    return FrontierPoint("", kl, (kl - error, kl + error), found.summary["reward_mean"], (low, high), name)


def main() -> None:
    """Train all, measure all, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paths = {"policy": None, "reward": None, "prompts": None, "out": Path("compare_algorithms.png")}
    numbers = {"episodes": 3200, "num_envs": 64, "answers": 1200, "points": 5, "seed": 0}
    rates = {"learning_rate": 5e-3, "kl_coef": 0.1}
    for kind, options in ((Path, paths), (int, numbers), (float, rates)):
        for option, default in options.items():
            parser.add_argument(f"--{option}", type=kind, default=default)
    args = parser.parse_args()
    task, points = make_task(args), []
    for name, agent in learners(task, args):
        row: list[FrontierPoint] = []

        def look(agent: Any, metrics: dict[str, float], name: str = name, row: list[FrontierPoint] = row) -> None:
            if agent.episodes / args.episodes >= ((len(row) + 1) / args.points) ** 2:  # early ones lie further apart
                row.append(measure(name, agent.policy, task, args))

        agent.learn(args.episodes, callback=look)
        points += row
        print(f"{name:15} reward {points[-1].score:.3f}  KL {points[-1].kl:.2f} nats per answer")
    if not args.policy:
        for beta in np.geomspace(3, 0.06, 30):
            kl, reward = (best := toy.solve(MDP, float(beta))).kl, best.expected_reward
            points.append(FrontierPoint("", kl, (kl, kl), reward, (reward, reward), "the best there is"))
    title = f"{args.episodes:,} episodes each"
    print("plot:", write_frontier(points, args.out, title=title, score_label="mean reward"))


if __name__ == "__main__":
    main()
