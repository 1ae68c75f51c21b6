"""Several processes do what one does with all their episodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms.ppo import PPO
from agents.learning.held_out import HeldOut
from agents.policy import sharding
from tests.agents.algorithms.test_ppo_options import make_text
from tests.agents.tasks import CONFIG, make_envs, variety
from tests.agents.worlds import in_parallel
from textenv.errors import CheckpointError, ConfigError, RunCheckError
from textenv.runs import Run
from textenv.training import world
from textenv.training.world import World
from textenv.wrappers.vector import WhitenReward

ROOT = Path(__file__).parents[3]
ALL = replace(
    CONFIG,
    kl_target=0.3,
    kl_horizon=50,
    whiten_rewards=True,
    ent_coef=0.01,
    group_size=2,
    num_minibatches=3,
    ptx_coef=0.5,
    eval_every=2,
)


def train(policy: Any, tokenizer: Any, world: World, config: Any, iterations: int = 3) -> dict[str, Any]:
    """A short run of one process among several; 16 episodes an iteration in all."""
    metrics: list[dict[str, float]] = []
    texts = [make_text(n) for n in (5, 3, 1)]
    agent = PPO(
        policy,
        make_envs(tokenizer, variety, num_envs=16 // world.size),
        config=config,
        ptx=texts if config.ptx_coef else None,
        held_out=HeldOut(["the old", "a"], n=2),
        world=world,
    )
    agent.learn(16 * iterations, callback=lambda a, m: metrics.append(m))
    weights = {name: p.detach() for name, p in agent.policy.named_parameters()}
    return {"metrics": metrics, "weights": weights, "kl_coef": agent.kl.coef}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["kl_coef"] == pytest.approx(expected["kl_coef"], rel=1e-6)
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if not name.startswith("time/"):
                assert ours[name] == pytest.approx(value, rel=2e-4, abs=1e-5), name
    for name, p in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], p, atol=2e-5, rtol=1e-3)


PLAIN = replace(CONFIG, eval_every=99)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        pytest.param(PLAIN, 2, id="plain-2"),
        pytest.param(ALL, 4, id="everything on-4", marks=pytest.mark.slow),
        pytest.param(PLAIN, 4, id="plain-4", marks=pytest.mark.slow),
        pytest.param(ALL, 2, id="everything on-2", marks=pytest.mark.slow),
    ],
)
def test_any_number_of_processes_gives_the_numbers_of_one(make_policy, tokenizer, config, size: int):
    def make(rank: int) -> Any:
        return make_policy(value_noise=1.0)

    alone = train(make(0), tokenizer, World(), config)
    together = in_parallel(make, size, lambda world, policy: train(policy, tokenizer, world, config))
    for found in together:
        assert_same(found, alone)
    for name, p in together[0]["weights"].items():  # and all of them stay one model, bit by bit
        assert all(torch.equal(p, other["weights"][name]) for other in together[1:]), name
    moved = [
        name for name, p in make_policy(value_noise=1.0).named_parameters() if torch.equal(p, alone["weights"][name])
    ]
    assert moved == []


def test_processes_start_from_the_first_ones_weights(make_policy, tokenizer):
    def start(world: World, policy: Any) -> torch.Tensor:
        PPO(policy, make_envs(tokenizer, variety), config=CONFIG, world=world)
        return policy.model.get_input_embeddings().weight.detach()

    first, second = in_parallel(make_policy, 2, start)
    assert torch.equal(first, second)


@pytest.mark.slow
def test_processes_resume_together_and_the_first_one_writes(make_policy, tokenizer, tmp_path: Path):
    def run(where: str, world: World, policy: Any, stop_after: int | None = None) -> dict[str, Any]:
        folder = Run(tmp_path / where, tensorboard=False)
        agent = PPO(policy, WhitenReward(make_envs(tokenizer, variety)), config=CONFIG, run=folder, world=world)

        def stop(agent, metrics):
            if agent.iteration == stop_after:
                raise KeyboardInterrupt

        try:
            agent.learn(64, callback=stop)
        except KeyboardInterrupt:
            assert stop_after is not None
        return {name: p.detach().clone() for name, p in agent.policy.named_parameters()}

    def make(rank: int) -> Any:
        return make_policy()

    whole = in_parallel(make, 2, lambda world, policy: run("whole", world, policy))
    in_parallel(make, 2, lambda world, policy: run("cut", world, policy, 3))
    resumed = in_parallel(make, 2, lambda world, policy: run("cut", world, policy))
    for name, p in whole[0].items():
        assert torch.equal(p, resumed[0][name]), name
        assert torch.equal(p, resumed[1][name]), name
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    with pytest.raises(CheckpointError, match=r"wrappers' states of 2 process\(es\), there are 1 now"):
        run("cut", World(), make(0))


def test_error_of_one_process_names_its_rows(make_policy, tokenizer):
    def work(world: World, policy: Any) -> None:
        agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, world=world)
        if world.rank == 1:
            with torch.no_grad():
                policy.model.get_output_embeddings().weight[5] = torch.nan
        agent.iterate(1e-3)

    with pytest.raises(RunCheckError, match=r"rollout of iteration 0: .*logits are NaN"):
        in_parallel(make_policy, 2, work)


def test_world_of_one_is_found_without_a_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert type(World.current(torch.device("cpu"))) is World


def test_fsdp_is_used_where_the_launcher_says_so_and_others_are_there(monkeypatch):
    several = World()
    several.size = 2
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not sharding.wanted(several)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding.wanted(several)
    assert not sharding.wanted(World())


def test_what_fsdp_cannot_do_is_refused(make_policy, tokenizer, tmp_path: Path):
    with pytest.raises(ConfigError, match="FSDP needs weights of one data type without a compute copy"):
        sharding.shard(make_policy(dtype=torch.bfloat16), World())
    agent = PPO(make_policy(), make_envs(tokenizer, variety), config=CONFIG)
    agent.world.sharded = True
    with pytest.raises(ConfigError, match="an agent divided by FSDP is not saved as a folder; give it a `run`"):
        agent.save(tmp_path)


def test_gradients_are_sent_in_buckets_of_one_type():
    tensors = [torch.zeros(3), torch.zeros(4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)]
    found = world._buckets(tensors)
    assert [[t.numel() for t in bucket] for bucket in found] == [[3], [4, 2]]


def launch(folder: Path, *flags: str, stop_after: int = 0) -> None:
    """Run ``tests/agents/launched.py`` alone, or under ``accelerate launch`` with some flags."""
    program = ["-m", "tests.agents.launched", str(folder), str(stop_after)]
    if flags:
        common = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        program = ["-m", "accelerate.commands.launch", *flags, *common, *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr[:4000]}\n…\n{done.stderr[-2000:]}"


def outcome(folder: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds", "stage"))} for r in records]
    return json.loads((folder / "final.json").read_text()) | {"metrics": figures}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", ["--multi_gpu", "--use_fsdp"])  # without a GPU the processes talk through gloo
def test_accelerate_launch_gives_the_numbers_of_one_process(tmp_path: Path, kind: str, size: int):
    pytest.importorskip("accelerate")
    sharded = kind == "--use_fsdp"
    flags = [kind, "--num_processes", str(size), "--main_process_port", str(29700 + 2 * size + sharded)]
    launch(tmp_path / "alone")
    launch(tmp_path / "together", *flags)
    alone, together = outcome(tmp_path / "alone"), outcome(tmp_path / "together")
    assert together["kinds"] == (["DTensor"] if sharded else ["Parameter"])
    assert len(alone["metrics"]) == 4
    for ours, theirs in zip(together["metrics"], alone["metrics"], strict=True):
        assert ours == {name: pytest.approx(value, rel=2e-4, abs=1e-5) for name, value in theirs.items()}
    for name, p in alone["weights"].items():
        found = torch.tensor(together["weights"][name])
        torch.testing.assert_close(found, torch.tensor(p), atol=5e-5, rtol=1e-3)
    assert list((tmp_path / "together" / "ppo" / "best").iterdir())
    if size == 2:
        launch(tmp_path / "cut", *flags, stop_after=3)
        launch(tmp_path / "cut", *flags)
        assert outcome(tmp_path / "cut") == together
