from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.algorithms.grpo import GRPO, DrGRPO, DrGRPOConfig, GRPOConfig, group_relative, grpo_advantages, grpo_loss
from tests.agents.groups import MDPS, expected_gradient, make_agent, make_experience, make_tokens
from textenv.envs import toy
from textenv.envs.toy_mdp import ENDED
from textenv.errors import ConfigError

EXACT = DrGRPOConfig(group_size=2, max_grad_norm=1e9, micro_batch_size=100_000, kl_coef=0.0)


def test_group_relative_hand_worked():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    found = group_relative(rewards, divide_by_std=True)
    std = math.sqrt((4 + 1 + 9) / 2)
    torch.testing.assert_close(found, torch.tensor([[-2 / std, -1 / std, 3 / std], [0.0, 0.0, 0.0]]))
    assert group_relative(rewards, divide_by_std=False).tolist() == [[-2, -1, 3], [0, 0, 0]]


def test_group_relative_is_the_slow_loop():
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = [[(r - statistics.mean(row)) / (statistics.stdev(row) + 0.1) for r in row] for row in rewards.tolist()]
    found = group_relative(rewards, divide_by_std=True, eps=0.1)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64))


def test_advantage_of_an_answer_is_on_each_of_its_tokens_and_nowhere_else():
    experience = make_experience([[0, 0, 4.0], [2.0], [1.0, 1.0], [0, 2.0, 0]], group_size=2)
    found = grpo_advantages(experience, GRPOConfig(group_size=2, std_eps=0.0))
    half = math.sqrt(0.5)
    expected = torch.tensor([[half, half, half], [-half, 0, 0], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(found.advantages, expected)
    assert grpo_advantages(experience, DrGRPOConfig(group_size=2)).advantages[0].tolist() == [1, 1, 1]


def test_loss_hand_worked():
    """Clipped above at 1.3, below at 0.8, with 0.1·k3 = 0.1·(e^{−d} − 1 + d) at d = log 2."""
    new, old = make_tokens(
        [2.0, -1.0],
        logprobs=[math.log(0.6), math.log(0.1)],
        old_logprobs=[math.log(0.4)] * 2,
        ref_logprobs=[math.log(0.3), math.log(0.05)],
        kl_coef=[0.1],
    )
    kl = 0.1 * (0.5 - 1 + math.log(2))
    found = grpo_loss(new, old, GRPOConfig(clip_range_high=0.3))
    assert found.total.tolist()[0] == pytest.approx([-2 * 1.3 + kl, 0.8 + kl])


@pytest.mark.parametrize("mdp", MDPS.values(), ids=list(MDPS))
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_expected_gradient_of_dr_grpo_is_the_policy_gradient_times_the_share_of_the_others(
    mdp: toy.ToyMDP, beta: float, monkeypatch
):
    agent = make_agent(DrGRPO, mdp, replace(EXACT, kl_coef=beta))
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact / 2, atol=1e-9)


def test_expected_gradient_of_dr_grpo_with_three_answers(monkeypatch):
    mdp = toy.ToyMDP.random(np.random.default_rng(4), 3, 2)
    agent = make_agent(DrGRPO, mdp, replace(EXACT, group_size=3, kl_coef=0.3))
    exact = toy.policy_gradient(mdp, agent.policy.logits, 0.3)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact * 2 / 3, atol=1e-9)


def beating(mdp: toy.ToyMDP, policy: np.ndarray) -> toy.ToyMDP:
    """The problem whose reward is how much more often an answer beats the policy's own than it loses."""
    drawn = toy.answer_distribution(mdp, policy)
    paid = {answer: sum(mdp.token_rewards(*answer)) for answer in drawn}
    rewards = np.zeros_like(mdp.rewards)
    for (prompt, tokens), own in paid.items():
        wins = sum(p * np.sign(own - paid[other]) for other, p in drawn.items() if other[0] == prompt)
        rewards[mdp.state_index(prompt, tokens[:-1]), tokens[-1]] = wins
    assert (mdp.next_states[rewards != 0] == ENDED).all()
    return dataclasses.replace(mdp, rewards=rewards)


@pytest.mark.parametrize("name", ["eos", "fixed length"])
def test_grpo_with_two_answers_maximises_how_often_an_answer_wins(name: str, monkeypatch):
    """Where the policy gradient's theory ends: ±1/√2 is all that the standard deviation leaves of two rewards."""
    mdp = MDPS[name]
    config = GRPOConfig(
        group_size=2,
        std_eps=0.0,
        kl_coef=0.0,
        loss_aggregation="constant",
        max_grad_norm=1e9,
        micro_batch_size=100_000,
    )
    agent = make_agent(GRPO, mdp, config)
    found = expected_gradient(agent, monkeypatch)
    wins = toy.policy_gradient(beating(mdp, agent.policy.probabilities), agent.policy.logits)
    np.testing.assert_allclose(found, wins * math.sqrt(0.5), atol=1e-9)
    exact = toy.policy_gradient(mdp, agent.policy.logits)
    alike = (found * exact).sum() / np.linalg.norm(found) / np.linalg.norm(exact)
    assert 0.5 < alike < 0.99, "uphill, but not the policy gradient"


def test_mean_over_each_answer_is_the_policy_gradient_only_where_all_answers_are_as_long(monkeypatch):
    """The second bias: tokens of long answers count less."""
    apart = {}
    for name in ("fixed length", "eos"):
        agent = make_agent(DrGRPO, MDPS[name], replace(EXACT, loss_aggregation="sequence_mean"))
        exact = toy.policy_gradient(MDPS[name], agent.policy.logits)
        apart[name] = np.abs(expected_gradient(agent, monkeypatch) - exact / 2).max()
    assert apart["fixed length"] < 1e-9
    assert apart["eos"] > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "`group_size` must be ≥ 2, got 1"),
        ({"clip_range_high": -0.1}, "`clip_range_high` must be positive, or None, got -0.1"),
        ({"std_eps": -1.0}, "`std_eps` must be ≥ 0"),
        ({"kl_estimator": "k1"}, "`kl_estimator` must be 'k2' or 'k3'"),
    ],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**change)
