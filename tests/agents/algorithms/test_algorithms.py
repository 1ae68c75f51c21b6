"""What every algorithm beside PPO shares with it, on the small language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
from agents.learning.protocols import Agent
from tests.agents.tasks import make_envs, variety
from tests.agents.worlds import in_parallel
from textenv.errors import ConfigError
from textenv.runs import Run
from textenv.training.world import World

COMMON: dict[str, Any] = {"learning_rate": 1e-3, "num_minibatches": 2, "micro_batch_size": 2, "kl_coef": 0.1}
GROUPS: dict[str, Any] = {**COMMON, "group_size": 4}
KINDS: dict[str, tuple[Any, Any]] = {
    "rloo": (agents.RLOO, agents.RLOOConfig(**GROUPS)),
    "grpo": (agents.GRPO, agents.GRPOConfig(**GROUPS, epochs=2)),
    "dr_grpo": (agents.DrGRPO, agents.DrGRPOConfig(**GROUPS)),
    "reinforce_pp": (agents.ReinforcePP, agents.ReinforcePPConfig(**COMMON, epochs=2)),
    "a2c": (agents.A2C, agents.A2CConfig(**{**COMMON, "num_minibatches": 1})),
    "expert_iteration": (agents.ExpertIteration, agents.ExpertIterationConfig(**GROUPS)),
}


@pytest.mark.parametrize("stage", KINDS)
def test_two_iterations_pass_the_checks_and_move_what_is_trained(stage: str, make_policy, tokenizer, tmp_path: Path):
    kind, config = KINDS[stage]
    policy = make_policy()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    agent = kind(policy, make_envs(tokenizer, variety), config=config, run=Run(tmp_path, tensorboard=False))
    assert isinstance(agent.learn(16), Agent)
    assert len(agent.checks) == 5
    assert all(agent.checks.values())
    unmoved = [name for name, p in policy.named_parameters() if (p == before[name]).all()]
    assert unmoved == ([] if stage == "a2c" else ["value_head.weight", "value_head.bias"])
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["stage"], record["step"]) for record in logged] == [(stage, 1), (stage, 2)]
    assert logged[0]["policy/ratio_first"] == pytest.approx(1, abs=1e-6)
    assert ("val/explained_variance" in logged[0]) == (stage == "a2c")


def figures(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds"))} for r in records]


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_resumed_run_is_the_uninterrupted_one(stage: str, make_policy, tokenizer, tmp_path: Path):
    kind, config = KINDS[stage]

    def train(where: str, *, stop_after: int | None = None) -> Any:
        def stop(agent: Any, metrics: dict[str, float]) -> None:
            if agent.iteration == stop_after:
                raise KeyboardInterrupt

        run = Run(tmp_path / where, tensorboard=False)
        return kind(make_policy(), make_envs(tokenizer, variety), config=config, run=run).learn(40, callback=stop)

    whole = train("whole")
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train("cut", stop_after=stop)
    resumed = train("cut")
    for (name, a), b in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    assert len(figures(tmp_path / "whole")) == 5


def test_save_and_load_go_on_with_the_same_numbers(make_policy, tokenizer, tmp_path: Path):
    kind, config = KINDS["rloo"]
    whole = kind(make_policy(), make_envs(tokenizer, variety), config=config).learn(32)
    half = kind(make_policy(), make_envs(tokenizer, variety), config=config)
    while half.iteration < 2:
        half.iterate(config.learning_rate_at(half.iteration, 4))
    half.save(tmp_path)
    resumed = kind.load(tmp_path, make_envs(tokenizer, variety))
    assert resumed.config == config
    resumed.learn(32)
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("stage", ["rloo", "reinforce_pp", "expert_iteration"])
def test_two_processes_make_the_updates_of_one(stage: str, make_policy, tokenizer):
    kind, config = KINDS[stage]

    def work(world: World, policy: Any) -> Any:
        return kind(policy, make_envs(tokenizer, variety, num_envs=16 // world.size), config=config, world=world).learn(
            48
        )

    alone = work(World(), make_policy())
    for agent in in_parallel(lambda rank: make_policy(), 2, work):
        for a, b in zip(alone.policy.parameters(), agent.policy.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_groups_must_fit_the_slots(make_policy, tokenizer):
    with pytest.raises(ConfigError, match=r"`num_envs` \(8\) must be a multiple of `group_size` \(3\)"):
        agents.RLOO(make_policy(), make_envs(tokenizer), config=replace(KINDS["rloo"][1], group_size=3))


def test_groups_of_equal_rewards_teach_nothing(make_policy, tokenizer):
    policy = make_policy()
    envs = make_envs(tokenizer, lambda prompts, responses: [1.0] * len(responses))
    config = replace(KINDS["grpo"][1], kl_coef=0.0)
    before = [p.detach().clone() for p in policy.parameters()]
    metrics = agents.GRPO(policy, envs, config=config).iterate(1e-3)
    assert metrics["loss/policy"] == metrics["policy/grad_norm"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
