"""Runs that are killed again and again: ``python -m tests.agents.kill_runs {toy,lm} FOLDER KILLS SEED``.

One process loads the libraries; every run is a fork of it, so that a kill costs no start-up time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from agents.algorithms.ppo import PPO, PPOConfig
from agents.learning.held_out import HeldOut
from agents.learning.recording import StoreRecorder
from agents.lm.pretraining import build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from tests.agents.conftest import TEXTS, TINY
from tests.agents.tabular import TabularPolicy
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.checkpoints import load_state
from textenv.envs import toy
from textenv.runs import Run
from textenv.trajectories import TrajectoryStore

EPISODES = {"toy": 64 * 120, "lm": 8 * 60}


def build(task: str, folder: Path) -> PPO:
    run = Run(folder, tensorboard=False)
    if task == "toy":
        mdp = toy.make_mdp("random", 4, 3)
        config = PPOConfig(learning_rate=0.05, epochs=2, num_minibatches=2, kl_coef=0.1, kl_target=0.5, adam_eps=1e-5)
        return PPO(TabularPolicy(mdp), toy.ToyVectorEnv(64, mdp=mdp), config=config, run=run)
    tokenizer = train_tokenizer(TEXTS, TINY.vocab_size)
    policy = CausalLMPolicy(build_model(TINY, tokenizer, 0), tokenizer)
    recorder = StoreRecorder(TrajectoryStore(folder / "store"), "run")
    held_out = HeldOut(["the old film", "a new"], n=2)
    return PPO(policy, make_envs(tokenizer, variety), config=CONFIG, run=run, callbacks=[recorder], held_out=held_out)


def play(task: str, folder: Path) -> None:
    """A run from wherever it stands to its end."""
    agent = build(task, folder).learn(EPISODES[task])
    weights = {name: p.tolist() for name, p in agent.policy.named_parameters()}
    (folder / "final.json").write_text(json.dumps({"weights": weights, "kl_coef": agent.kl.coef}))


def forked(task: str, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            play(task, folder)
        except BaseException as error:  # noqa: BLE001 - the parent reads it
            (folder / "error.txt").write_text(repr(error))
            os._exit(1)
        os._exit(0)
    return child


def figures(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds"))} for r in records]


def main(task: str, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Play once undisturbed and once killed ``kills`` times; what is to be compared."""
    torch.set_num_threads(1)
    build(task, folder / "warm").learn(128)  # what is imported late is imported here
    began = time.monotonic()
    build(task, folder / "start")
    start = time.monotonic() - began
    os.waitpid(forked(task, folder / "whole"), 0)
    whole = time.monotonic() - began - start
    rng, places = random.Random(seed), []
    for _ in range(kills):
        child = forked(task, folder / "cut")
        time.sleep(rng.uniform(0, start + 1.9 * (whole - start) / kills))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        complete = sorted((folder / "cut" / "ppo" / "checkpoints").glob("step-*"))
        for checkpoint in complete:
            load_state(checkpoint)  # raises where a file is missing or damaged
        places.append(int(complete[-1].name.removeprefix("step-")) if complete else 0)
    _, status = os.waitpid(forked(task, folder / "cut"), 0)
    found: dict[str, Any] = {"status": status, "seconds": whole, "places": places}
    found["errors"] = [p.read_text() for p in folder.glob("*/error.txt")]
    found["same_metrics"] = figures(folder / "whole") == figures(folder / "cut")
    final = [(folder / name / "final.json").read_text() for name in ("whole", "cut")]
    found["same_weights"] = final[0] == final[1]
    if task == "lm":
        stores = [TrajectoryStore(folder / name / "store") for name in ("whole", "cut")]
        names = [[t.traj_id for t in sorted(store, key=lambda t: str(t.traj_id))] for store in stores]
        found["same_store"] = names[0] == names[1]
        best = [next((folder / name / "ppo" / "best").iterdir()) for name in ("whole", "cut")]
        found["same_best"] = best[0].name == best[1].name and (
            (best[0] / "model.safetensors").read_bytes() == (best[1] / "model.safetensors").read_bytes()
        )
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))) + "\n")
