from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.algorithms.reinforce_pp import (
    ReinforcePP,
    ReinforcePPConfig,
    reinforce_pp_advantages,
    reinforce_pp_loss,
    reward_to_go,
)
from tests.agents.groups import MDPS, expected_gradient, make_agent, make_experience, make_tokens
from tests.agents.tabular import every_answer
from textenv.envs import toy
from textenv.errors import ConfigError

EXACT = ReinforcePPConfig(
    whiten_advantages=False, loss_aggregation="constant", max_grad_norm=1e9, micro_batch_size=100_000, kl_coef=0.0
)


def test_reward_to_go_hand_worked():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert reward_to_go(rewards, mask, gamma=1.0).tolist() == [[7, 6, 4], [8, 5, 0]]
    assert reward_to_go(rewards, mask, gamma=0.5).tolist() == [[3, 4, 4], [5.5, 5, 0]]


def test_advantages_hand_worked():
    """Returns 4 4 | 1 1 on four tokens: mean 2.5, standard deviation 1.5."""
    experience = make_experience([[0, 4.0], [0, 1.0]], group_size=2)
    batch = reinforce_pp_advantages(experience, ReinforcePPConfig())
    torch.testing.assert_close(batch.advantages, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert batch.returns is None
    raw = reinforce_pp_advantages(experience, ReinforcePPConfig(whiten_advantages=False))
    assert raw.advantages.tolist() == [[4, 4], [1, 1]]
    group = ReinforcePPConfig(baseline="group", group_size=2, whiten_advantages=False)
    assert reinforce_pp_advantages(experience, group).advantages.tolist() == [[1.5, 1.5], [-1.5, -1.5]]


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_advantages_are_the_slow_loop(baseline):
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=length).tolist() for length in (3, 1, 2, 3)]
    config = ReinforcePPConfig(baseline=baseline, group_size=2, gamma=0.7 if baseline == "batch" else 1.0)
    slow = []
    for i, row in enumerate(rewards):
        for t in range(len(row)):
            if baseline == "batch":
                slow.append(sum(0.7 ** (k - t) * row[k] for k in range(t, len(row))))
            else:
                group = rewards[i // 2 * 2 : i // 2 * 2 + 2]
                slow.append(sum(row) - sum(map(sum, group)) / 2)
    expected = (np.array(slow) - np.mean(slow)) / np.std(slow)
    experience = make_experience(rewards, group_size=2)
    found = reinforce_pp_advantages(experience, config).advantages
    np.testing.assert_allclose(found[experience.action_mask].numpy(), expected, atol=1e-5)
    assert (found[~experience.action_mask] == 0).all()


def test_loss_hand_worked():
    new, old = make_tokens([2.0, -1.0], logprobs=[math.log(0.6), math.log(0.1)], old_logprobs=[math.log(0.4)] * 2)
    assert reinforce_pp_loss(new, old, ReinforcePPConfig()).total.tolist()[0] == pytest.approx([-2 * 1.2, 0.8])


@pytest.mark.parametrize("mdp", MDPS.values(), ids=list(MDPS))
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_expected_gradient_without_normalisation_is_the_exact_policy_gradient(mdp, beta: float, monkeypatch):
    agent = make_agent(ReinforcePP, mdp, replace(EXACT, kl_coef=beta))
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact, atol=1e-9)


def test_expected_gradient_with_group_baseline_is_the_policy_gradient_times_the_share_of_the_others(monkeypatch):
    agent = make_agent(ReinforcePP, MDPS["eos"], replace(EXACT, baseline="group", group_size=2, kl_coef=0.4))
    exact = toy.policy_gradient(MDPS["eos"], agent.policy.logits, 0.4)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact / 2, atol=1e-9)


def test_normalised_gradient_of_a_whole_population_is_the_policy_gradient_over_the_standard_deviation(monkeypatch):
    """A uniform policy: each answer once is the population itself, so batch statistics are exact."""
    mdp, beta = MDPS["fixed length"], 0.4
    config = replace(EXACT, whiten_advantages=True, loss_aggregation="token_mean", kl_coef=beta)
    agent = make_agent(ReinforcePP, mdp, config, logits=np.zeros_like(mdp.rewards))
    rollout, _ = every_answer(mdp, agent.policy)
    minibatches = agent.deal(rollout)
    experience = agent.assess(rollout, minibatches)
    found = {}

    def capture() -> None:
        found["gradient"] = -agent.policy.model.base_model.rows.grad[:-1, :-1].numpy().copy()

    monkeypatch.setattr(agent.optimizer, "step", capture)
    agent.update(experience, agent.estimate(experience), minibatches[0])
    returns = reward_to_go(experience.rewards, experience.action_mask, gamma=1.0)
    std = float(returns[experience.action_mask].std(correction=0))
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(found["gradient"] * mdp.horizon, exact / std, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_range": 0.0}, "`clip_range` must be positive"),
        ({"baseline": "critic"}, "`baseline` must be 'batch' or 'group', got 'critic'"),
        ({"baseline": "group"}, "`group_size` must be ≥ 2, got 1"),
    ],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        ReinforcePPConfig(**change)
