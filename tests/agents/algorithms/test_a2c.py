from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.algorithms.a2c import A2C, A2CConfig, a2c_advantages, a2c_loss
from tests.agents.groups import MDPS, expected_gradient, make_agent, make_experience, make_tokens
from tests.agents.tabular import every_answer
from textenv.envs import toy
from textenv.errors import ConfigError

EXACT = A2CConfig(
    vf_coef=0.0, loss_aggregation="constant", max_grad_norm=1e9, micro_batch_size=100_000, kl_coef=0.0, epochs=1
)


def test_advantages_hand_worked():
    experience = make_experience([[1.0, 2.0], [4.0]], values=[[0.5, 1.0], [1.0, 7.0]])
    found = a2c_advantages(experience, A2CConfig())
    assert found.advantages.tolist() == [[2.5, 1.0], [3.0, 0.0]]
    assert found.returns is not None
    assert found.returns[experience.action_mask].tolist() == [3, 2, 4]
    one_step = a2c_advantages(experience, A2CConfig(gae_lambda=0.0))
    assert one_step.advantages.tolist() == [[1 + 1 - 0.5, 1.0], [3.0, 0.0]]
    white = a2c_advantages(experience, A2CConfig(whiten_advantages=True)).advantages[experience.action_mask]
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_advantages_are_the_slow_loop():
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=length).tolist() for length in (3, 1, 2)]
    values = rng.normal(size=(3, 3)).astype(np.float32)
    config = A2CConfig(gamma=0.9, gae_lambda=0.8)
    experience = make_experience(rewards, values=values.tolist())
    found = a2c_advantages(experience, config)
    for i, row in enumerate(rewards):
        after = [*values[i, 1 : len(row)].tolist(), 0.0]
        deltas = [r + 0.9 * v - float(values[i, t]) for t, (r, v) in enumerate(zip(row, after, strict=True))]
        slow = [sum(0.72 ** (k - t) * deltas[k] for k in range(t, len(row))) for t in range(len(row))]
        np.testing.assert_allclose(found.advantages[i, : len(row)].numpy(), slow, atol=1e-5)


def test_loss_hand_worked():
    """−A·log π plus 0.5 times half the squared error, and no clipping of either."""
    new, old = make_tokens(
        [2.0], logprobs=[-0.3], old_logprobs=[-1.9], values=[3.0], returns=[1.0], old_values=[0.0], entropy=[0.8]
    )
    found = a2c_loss(new, old, A2CConfig(ent_coef=0.1))
    assert found.total.item() == pytest.approx(0.6 + 0.5 * 0.5 * 4 - 0.08)
    assert found.figures["loss/value"].item() == 2.0
    assert found.figures["policy/ratio"].item() == pytest.approx(np.exp(1.6))


@pytest.mark.parametrize("mdp", MDPS.values(), ids=list(MDPS))
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_expected_gradient_is_the_exact_policy_gradient_for_any_critic(mdp: toy.ToyMDP, beta: float, monkeypatch):
    agent = make_agent(A2C, mdp, replace(EXACT, kl_coef=beta))
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact, atol=1e-9)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_expected_gradient_is_exact_for_any_lambda_with_exact_values(gae_lambda: float, monkeypatch):
    mdp, beta = MDPS["dense"], 0.3
    agent = make_agent(A2C, mdp, replace(EXACT, kl_coef=beta, gae_lambda=gae_lambda))
    truth = toy.evaluate(mdp, agent.policy.probabilities, beta)
    with torch.no_grad():
        agent.policy.model.base_model.rows[:-1, -1] = torch.as_tensor(truth.values)
    exact = toy.policy_gradient(mdp, agent.policy.logits, beta)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), exact, atol=1e-9)


def test_gradient_of_the_critic_leads_to_the_exact_values(monkeypatch):
    """A uniform policy: each answer once is the population itself."""
    mdp, beta = MDPS["fixed length"], 0.4
    agent = make_agent(A2C, mdp, replace(EXACT, kl_coef=beta, vf_coef=0.5), logits=np.zeros_like(mdp.rewards))
    rows = agent.policy.model.base_model.rows
    rollout, _ = every_answer(mdp, agent.policy)
    minibatches = agent.deal(rollout)
    experience = agent.assess(rollout, minibatches)
    found = {}
    monkeypatch.setattr(agent.optimizer, "step", lambda: found.update(critic=rows.grad[:-1, -1].numpy().copy()))
    agent.update(experience, agent.estimate(experience), minibatches[0])
    truth = toy.evaluate(mdp, agent.policy.probabilities, beta)
    values = rows[:-1, -1].detach().numpy()
    expected = 0.5 * truth.occupancy * (values - truth.values)
    np.testing.assert_allclose(found["critic"] * mdp.horizon, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"gae_lambda": 1.5}, "`gae_lambda` must lie in"), ({"vf_coef": -1.0}, "`vf_coef` must be ≥ 0")],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        A2CConfig(**change)
