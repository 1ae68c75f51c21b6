"""A program for ``accelerate launch``: trains a tiny policy and writes what happened; see ``test_world.py``."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from agents.algorithms.ppo import PPO
from agents.learning.held_out import HeldOut
from agents.lm.pretraining import build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from tests.agents.algorithms.test_ppo_options import make_text
from tests.agents.conftest import TEXTS, TINY
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.runs import Run
from textenv.training.world import World, full

CONFIG_ALL = replace(
    CONFIG,
    kl_target=0.3,
    kl_horizon=50,
    whiten_rewards=True,
    ent_coef=0.01,
    group_size=2,
    ptx_coef=0.5,
    eval_every=2,
    reference_update="ema",
)


def main(folder: Path, stop_after: int) -> None:
    """Train from wherever the run stands, to its end or until it is interrupted after an iteration."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(TEXTS, TINY.vocab_size)
    policy = CausalLMPolicy(build_model(TINY, tokenizer, 0), tokenizer)
    world = World.current(policy.device)
    agent = PPO(
        policy,
        make_envs(tokenizer, variety, num_envs=16 // world.size),
        config=CONFIG_ALL,
        ptx=[make_text(n) for n in (5, 3, 1)],
        held_out=HeldOut(["the old", "a"], n=2),
        run=Run(folder, tensorboard=False),
    )
    assert agent.world.size == world.size

    def stop(agent: PPO, metrics: dict[str, float]) -> None:
        if agent.iteration == stop_after:
            raise SystemExit(0)

    agent.learn(64, callback=stop)
    weights = {name: full(p.detach()).tolist() for name, p in policy.named_parameters()}
    if agent.world.is_main:
        kinds = sorted({type(p).__name__ for p in policy.parameters()})
        (folder / "final.json").write_text(json.dumps({"weights": weights, "kinds": kinds}))


if __name__ == "__main__":
    with suppress(SystemExit):  # all processes stop
        main(Path(sys.argv[1]), int(sys.argv[2]))
    if distributed.is_initialized():
        distributed.barrier()  # nobody goes while others are still at work
