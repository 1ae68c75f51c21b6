from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.algorithms.rloo import RLOO, RLOOConfig, leave_one_out, rloo_advantages, rloo_loss
from tests.agents.groups import MDPS, expected_gradient, make_agent, make_experience, make_tokens
from textenv.envs import toy
from textenv.errors import ConfigError

EXACT = RLOOConfig(group_size=2, max_grad_norm=1e9, micro_batch_size=100_000, kl_coef=0.0)


def test_leave_one_out_hand_worked():
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[1 - 4, 2 - 3.5, 6 - 1.5], [0.0, 0.0, 0.0]]))


def test_leave_one_out_is_the_slow_loop():
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = [
        [row[i] - sum(r for j, r in enumerate(row) if j != i) / (len(row) - 1) for i in range(len(row))]
        for row in rewards.tolist()
    ]
    torch.testing.assert_close(leave_one_out(rewards), torch.tensor(slow, dtype=torch.float64))


def test_advantage_of_an_answer_is_on_each_of_its_tokens_and_nowhere_else():
    """Two prompts with two answers; dense rewards add up."""
    experience = make_experience([[0, 0, 4.0], [1.0], [0.5, 0.5], [0, 0, 0]], group_size=2)
    found = rloo_advantages(experience, RLOOConfig(group_size=2))
    assert found.advantages.tolist() == [[3, 3, 3], [-3, 0, 0], [1, 1, 0], [-1, -1, -1]]
    assert found.returns is None


def test_loss_hand_worked():
    new, old = make_tokens([2.0, -1.0], logprobs=[math.log(0.6), math.log(0.1)], old_logprobs=[math.log(0.4)] * 2)
    assert rloo_loss(new, old, RLOOConfig()).total.tolist()[0] == pytest.approx([-2 * 1.5, 0.25])
    clipped = rloo_loss(new, old, RLOOConfig(clip_range=0.2))
    assert clipped.total.tolist()[0] == pytest.approx([-2 * 1.2, 0.8])
    assert clipped.figures["policy/clip_fraction"].tolist() == [[1, 1]]


def test_loss_with_entropy_bonus_importance_and_kl_hand_worked():
    config = RLOOConfig(ent_coef=0.5, kl_placement="loss", kl_estimator="k2")
    new, old = make_tokens([2.0], entropy=[0.8], importance=[0.25], ref_logprobs=[-3.0], kl_coef=[0.1])
    assert rloo_loss(new, old, config).total.item() == pytest.approx(-0.25 * 2 - 0.5 * 0.8 + 0.1 * 4.5)


def test_gradient_of_the_loss_at_ratio_one_is_that_of_reinforce():
    new, old = make_tokens([2.0, -1.0], logprobs=[-1.0, -2.0], old_logprobs=[-1.0, -2.0])
    rloo_loss(new, old, RLOOConfig()).total.sum().backward()
    assert new.logprobs.grad is not None
    assert new.logprobs.grad.tolist() == [[-2.0, 1.0]]


@pytest.mark.parametrize("mdp", MDPS.values(), ids=list(MDPS))
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_expected_gradient_is_the_exact_policy_gradient(mdp: toy.ToyMDP, beta: float, monkeypatch):
    agent = make_agent(RLOO, mdp, replace(EXACT, kl_coef=beta))
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact, atol=1e-9)
    assert np.abs(exact).max() > 0.01


def test_expected_gradient_is_exact_for_three_answers_too(monkeypatch):
    mdp = toy.ToyMDP.random(np.random.default_rng(4), 3, 2)
    agent = make_agent(RLOO, mdp, replace(EXACT, group_size=3, kl_coef=0.3))
    exact = toy.policy_gradient(mdp, agent.policy.logits, 0.3)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "`group_size` must be ≥ 2, got 1: the baseline is the other answers.*`RLOOConfig`"),
        ({"gamma": 0.9}, "`gamma` must be 1, got 0.9: `RLOOConfig` compares whole answers"),
        ({"clip_range": 0.0}, "`clip_range` must be positive, or None, got 0.0"),
    ],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        RLOOConfig(**change)
