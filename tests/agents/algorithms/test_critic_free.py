"""For every learner without a critic: answers that were not scored are none, and equal rewards teach nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.algorithms.expert_iteration import best_of_group
from agents.algorithms.groups import above_mean
from agents.algorithms.grpo import group_relative
from agents.algorithms.rloo import leave_one_out
from agents.formulas.advantages import whiten
from tests.agents.tasks import make_envs, variety
from tests.agents.worlds import in_parallel
from textenv.errors import ConfigError
from textenv.training.world import World

COMMON: dict[str, Any] = {"learning_rate": 1e-2, "micro_batch_size": 4, "kl_coef": 0.0}
GROUPS: dict[str, Any] = {**COMMON, "group_size": 4}
KINDS: dict[str, tuple[Any, Any]] = {
    "rloo": (agents.RLOO, agents.RLOOConfig(**GROUPS)),
    "grpo": (agents.GRPO, agents.GRPOConfig(**GROUPS, std_eps=0.0)),
    "dr_grpo": (agents.DrGRPO, agents.DrGRPOConfig(**GROUPS)),
    "reinforce_pp": (agents.ReinforcePP, agents.ReinforcePPConfig(**COMMON)),
    "reinforce_pp, group": (agents.ReinforcePP, agents.ReinforcePPConfig(**GROUPS, baseline="group")),
    "reinforce_pp, plain": (agents.ReinforcePP, agents.ReinforcePPConfig(**COMMON, whiten_advantages=False)),
}
EVERY = KINDS | {"expert_iteration": (agents.ExpertIteration, agents.ExpertIterationConfig(**GROUPS))}


CUTTING: dict[str, Any] = {"on_length_limit": "truncate", "stop": [chr(i) for i in range(60, 100)]}
"""About half of the answers end before their limit."""


def constant(prompts: list[str], responses: list[str]) -> list[float]:
    return [-5.1] * len(responses)


@pytest.mark.parametrize("value", [0.3, 100.1, -512.3, 1e-8, 3e7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 7, 51, 59])
def test_equal_rewards_have_advantage_exactly_0(value: float, dtype: torch.dtype, size: int):
    rewards = torch.full((3, size), value, dtype=dtype)
    counted = torch.arange(size) != 1  # the other one's reward, 0, is none
    for mask in (None, counted.expand(3, size)):
        given = rewards if mask is None else torch.where(mask, rewards, 0.0)
        assert not leave_one_out(given, mask).any()
        assert not group_relative(given, mask, divide_by_std=True).any()
    assert not whiten(rewards, torch.ones_like(rewards, dtype=torch.bool)).any()


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_equal_advantages_of_several_processes_are_whitened_to_exactly_0(size: int):
    def work(world: World, policy: Any) -> torch.Tensor:
        x = torch.full((1, 3 + world.rank), 0.1, dtype=torch.float64) * 1.1
        return whiten(x, torch.ones_like(x, dtype=torch.bool), total=world.sum)

    assert not torch.cat(in_parallel(lambda rank: None, size, work), 1).any()


def test_answers_without_a_score_are_left_out_of_the_group():
    nan = math.nan
    rewards = torch.tensor([[1.0, nan, 3.0, 8.0], [nan, nan, 2.0, nan], [nan] * 4])
    counted = ~rewards.isnan()
    rows = torch.tensor([[1.0, 3.0, 8.0]])
    for found, alone in (
        (above_mean(rewards, counted), above_mean(rows)),
        (leave_one_out(rewards, counted), leave_one_out(rows)),
        (
            group_relative(rewards, counted, divide_by_std=True, eps=0.1),
            group_relative(rows, divide_by_std=True, eps=0.1),
        ),
        (best_of_group(rewards, counted), best_of_group(rows)),
    ):
        torch.testing.assert_close(found[0, [0, 2, 3]], alone[0])
        assert found[0, 1] == 0
        assert not found[1:].any()


@pytest.mark.parametrize("stage", KINDS)
def test_learner_does_not_learn_to_be_cut_off(stage: str, make_policy, tokenizer):
    kind, config = KINDS[stage]
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    envs = make_envs(tokenizer, constant, num_envs=16, **CUTTING)
    agent = kind(policy, envs, config=config)
    measured = agent.iterate(1e-2)
    assert 0 < measured["rollout/truncated_fraction"] < 1
    assert measured["objective/score"] == pytest.approx(-5.1)
    assert measured["objective/score_std"] == pytest.approx(0)
    assert measured["objective/rlhf_reward"] == pytest.approx(-5.1)
    assert not agent.estimated.advantages.any()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("stage", EVERY)
def test_iteration_without_a_score_changes_nothing(stage: str, make_policy, tokenizer):
    kind, config = EVERY[stage]
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    agent = kind(policy, make_envs(tokenizer, variety, max_episode_steps=2), config=replace(config, kl_coef=0.1))
    seen: list[dict[str, float]] = []
    agent.learn(16, callback=lambda agent, measured: seen.append(measured))
    for measured in seen:
        assert all(map(math.isfinite, measured.values()))
        assert measured["rollout/truncated_fraction"] == 1
        assert "objective/score" not in measured
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("stage", EVERY)
def test_answers_without_a_score_weigh_nothing_in_the_loss(stage: str, make_policy, tokenizer):
    """With the unscored ones' rewards, advantages and tokens whatever they are, the update is the same."""
    kind, config = EVERY[stage]
    envs = make_envs(tokenizer, variety, num_envs=16, **CUTTING)
    agent = kind(make_policy(), envs, config=config)
    rollout = agent.collector.collect(0, agent.prompts.deal(16, config.group_size))
    scored = rollout.scored
    assert 0 < scored.sum() < 16
    (minibatch,) = agent.deal(rollout)
    assert minibatch.rows == scored.sum()
    assert minibatch.tokens == rollout.action_mask[scored].sum()
    found = []
    for rubbish in (0.0, 1e6):
        rewards = np.where(scored[:, None], rollout.rewards, np.float32(rubbish))
        experience = agent.assess(replace(rollout, rewards=rewards), [minibatch])
        estimated = agent.estimate(experience)
        assert estimated.advantages[torch.tensor(scored)].any()
        found.append(estimated.advantages)
    assert torch.equal(*found)
    assert not found[0][torch.tensor(~scored)].any()


@pytest.mark.parametrize("stage", ["grpo", "reinforce_pp, plain"])
def test_two_processes_leave_out_the_same_answers_as_one(stage: str, make_policy, tokenizer):
    kind, config = EVERY[stage]

    def work(world: World, policy: Any) -> tuple[Any, dict[str, float]]:
        envs = make_envs(tokenizer, variety, num_envs=16 // world.size, **CUTTING)
        agent = kind(policy, envs, config=config, world=world)
        return agent, agent.iterate(1e-4)

    alone, expected = work(World(), make_policy())
    assert 0 < expected["rollout/truncated_fraction"] < 1
    for agent, measured in in_parallel(lambda rank: make_policy(), 2, work):
        for name in ("objective/score", "objective/score_std", "objective/rlhf_reward", "rollout/truncated_fraction"):
            assert measured[name] == pytest.approx(expected[name]), name
        for a, b in zip(alone.policy.parameters(), agent.policy.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_critic_says_what_a_cut_answer_is_worth(make_policy, tokenizer):
    envs = make_envs(tokenizer, variety, num_envs=16, **CUTTING)
    agent = agents.PPO(make_policy(value_noise=1.0), envs, config=agents.PPOConfig(kl_coef=0.0))
    measured = agent.iterate(0.0)
    assert agent.experience is not None
    assert agent.estimated is not None
    rollout = agent.experience.rollout
    assert measured["objective/score"] == pytest.approx(rollout.scores[rollout.scored].mean())
    assert agent.experience.last_values[torch.tensor(~rollout.scored)].all()
    assert agent.estimated.advantages[torch.tensor(~rollout.scored)].any(1).all()


def test_penalty_on_answers_that_are_left_out_is_refused(make_policy, tokenizer):
    kind, config = KINDS["rloo"]
    with pytest.raises(ConfigError, match="`missing_eos_penalty` has no effect"):
        kind(
            make_policy(),
            make_envs(tokenizer, on_length_limit="truncate"),
            config=replace(config, missing_eos_penalty=1.0),
        )
