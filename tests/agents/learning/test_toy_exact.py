"""Exact expectations on Toy problems, by enumeration in float64, against the oracles."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.ppo import PPO, PPOConfig
from tests.agents.tabular import TabularPolicy, every_answer
from textenv.envs import toy

EXACT = PPOConfig(
    whiten_advantages=False,
    gae_lambda=1.0,
    vf_coef=0.0,
    clip_range_vf=None,
    max_grad_norm=1e9,
    micro_batch_size=1000,
    kl_coef=0.0,
)
MDPS = {
    "eos": toy.ToyMDP.random(np.random.default_rng(1), 3, 3),
    "dense": toy.ToyMDP.random(np.random.default_rng(2), 3, 3, dense=True),
    "fixed length": toy.ToyMDP.random(np.random.default_rng(3), 3, 2, has_eos=False),
}


def expected_gradient(agent: PPO, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Gradient of one update's loss, in expectation over answers: enumerated, weighted by their probabilities."""
    policy: Any = agent.policy
    rollout, probabilities = every_answer(policy.mdp, policy)
    minibatches = agent.deal(rollout)
    experience = agent.assess(rollout, minibatches)
    # The learner averages over tokens; an expectation sums over the tokens of an answer.
    weights = probabilities[:, None] * minibatches[0].tokens * experience.action_mask
    estimated = agent.estimate(experience)
    found: dict[str, np.ndarray] = {}

    def capture() -> None:
        found["gradient"] = policy.model.base_model.rows.grad[:-1].numpy().copy()

    monkeypatch.setattr(agent.optimizer, "step", capture)
    weighted = replace(experience, importance=weights)
    figures = agent.update(weighted, estimated, minibatches[0])
    assert figures["policy/ratio"] == pytest.approx(1.0, abs=1e-12)
    return found["gradient"]


def make_agent(mdp: toy.ToyMDP, config: PPOConfig, **options: Any) -> PPO:
    rng = np.random.default_rng(7)
    start = rng.normal(size=mdp.rewards.shape)
    policy = TabularPolicy(mdp, start, values=rng.normal(size=mdp.num_states))
    reference = TabularPolicy(mdp)
    return PPO(policy, toy.ToyVectorEnv(4, mdp=mdp), reference=reference, config=config, **options)


@pytest.mark.parametrize("mdp", MDPS.values(), ids=list(MDPS))
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_gradient_of_one_update_is_the_exact_policy_gradient(mdp: toy.ToyMDP, beta: float, monkeypatch):
    """Ratio 1, no clipping, any critic: with λ = 1 a baseline changes no expectation."""
    agent = make_agent(mdp, replace(EXACT, kl_coef=beta))
    policy: Any = agent.policy
    gradient = expected_gradient(agent, monkeypatch)
    exact = toy.policy_gradient(mdp, policy.logits, beta)
    np.testing.assert_allclose(-gradient[:, :-1], exact, atol=1e-9)
    assert np.abs(exact).max() > 0.01


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_gradient_with_the_exact_critic_is_the_policy_gradient_for_any_lambda(gae_lambda: float, monkeypatch):
    mdp, beta = MDPS["dense"], 0.3
    agent = make_agent(mdp, replace(EXACT, kl_coef=beta, gae_lambda=gae_lambda))
    policy: Any = agent.policy
    truth = toy.evaluate(mdp, policy.probabilities, beta)
    with torch.no_grad():
        policy.model.base_model.rows[:-1, -1] = torch.as_tensor(truth.values)
    gradient = expected_gradient(agent, monkeypatch)
    np.testing.assert_allclose(-gradient[:, :-1], toy.policy_gradient(mdp, policy.logits, beta), atol=1e-9)


def test_discounted_gradient_without_gamma_in_the_occupancy(monkeypatch):
    """With γ < 1 the usual estimator leaves the discount out of the states' weights, as every library does."""
    mdp, gamma = MDPS["dense"], 0.8
    agent = make_agent(mdp, replace(EXACT, gamma=gamma))
    policy: Any = agent.policy
    truth = toy.evaluate(mdp, policy.probabilities, 0.0, gamma=gamma)
    weights = toy.state_occupancy(mdp, policy.probabilities)[:, None] * policy.probabilities
    expected = weights * (truth.q_values - truth.values[:, None])
    np.testing.assert_allclose(-expected_gradient(agent, monkeypatch)[:, :-1], expected, atol=1e-9)


def kl_gradient(policy: TabularPolicy, *, forward: bool) -> np.ndarray:
    """Σ_s d(s) ∇KL at each state, the states' weights held fixed: KL(π‖π_ref), or KL(π_ref‖π) forward."""
    mdp = policy.mdp
    logits = torch.tensor(policy.logits, requires_grad=True)
    log_p, log_q = logits.log_softmax(1), torch.as_tensor(mdp.ref_probs).log()
    each = (log_q.exp() * (log_q - log_p)) if forward else (log_p.exp() * (log_p - log_q))
    occupancy = torch.as_tensor(toy.state_occupancy(mdp, policy.probabilities))
    (occupancy[:, None] * each).sum().backward()
    assert logits.grad is not None
    return logits.grad.numpy()


def without_advantages(agent: PPO, term: Any = None) -> None:
    """Leave the policy term out of an agent's loss, and weight what is left, or another term, by the probabilities."""
    original = agent.loss

    def loss(new, old, config):
        found = original(new, old._replace(advantages=torch.zeros_like(old.advantages)), config)
        return found._replace(total=old.importance * (found.total if term is None else term(new, old)))

    agent.loss = loss


@pytest.mark.parametrize(("estimator", "forward"), [("k2", False), ("k3", True)])
def test_kl_in_the_loss_has_the_gradient_that_is_claimed(estimator: Any, forward: bool, monkeypatch):
    agent = make_agent(MDPS["eos"], replace(EXACT, kl_coef=0.7, kl_placement="loss", kl_estimator=estimator))
    policy: Any = agent.policy
    without_advantages(agent)
    gradient = expected_gradient(agent, monkeypatch)[:, :-1]
    np.testing.assert_allclose(gradient, 0.7 * kl_gradient(policy, forward=forward), atol=1e-9)
    assert np.abs(gradient - 0.7 * kl_gradient(policy, forward=not forward)).max() > 1e-3


def test_k1_as_a_loss_would_have_no_gradient(monkeypatch):
    agent = make_agent(MDPS["eos"], EXACT)
    without_advantages(agent, lambda new, old: new.logprobs - old.ref_logprobs)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), 0.0, atol=1e-12)


def test_k3_in_the_reward_would_count_a_tokens_own_kl_as_the_difference_of_both_directions(monkeypatch):
    """Why it is refused. One token per answer, so that nothing comes later."""
    mdp = toy.ToyMDP.random(np.random.default_rng(5), 4, 1, num_prompts=1)
    mdp = dataclasses.replace(mdp, rewards=np.zeros_like(mdp.rewards))
    config = replace(EXACT, kl_coef=0.7)
    object.__setattr__(config, "kl_estimator", "k3")
    agent = make_agent(mdp, config)
    policy: Any = agent.policy
    expected = 0.7 * (kl_gradient(policy, forward=False) - kl_gradient(policy, forward=True))
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch)[:, :-1], expected, atol=1e-9)


def test_entropy_bonus_has_the_gradient_of_the_mean_entropy(monkeypatch):
    mdp = MDPS["eos"]
    agent = make_agent(mdp, replace(EXACT, ent_coef=0.5))
    policy: Any = agent.policy
    without_advantages(agent)
    gradient = expected_gradient(agent, monkeypatch)[:, :-1]
    logits = torch.tensor(policy.logits, requires_grad=True)
    log_p = logits.log_softmax(1)
    occupancy = torch.as_tensor(toy.state_occupancy(mdp, policy.probabilities))
    (0.5 * occupancy[:, None] * -(log_p.exp() * log_p)).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(-gradient, logits.grad.numpy(), atol=1e-9)


def variation(mdp: toy.ToyMDP, policy: np.ndarray, other: np.ndarray) -> float:
    """Total variation between the distributions over whole answers, the mean over prompts."""
    ours, theirs = toy.answer_distribution(mdp, policy), toy.answer_distribution(mdp, other)
    apart = sum(abs(ours.get(answer, 0.0) - theirs.get(answer, 0.0)) for answer in ours.keys() | theirs.keys())
    return 0.5 * apart / mdp.num_prompts


@pytest.mark.learning
@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("dense", [False, True], ids=["score at the end", "dense"])
def test_ppo_reaches_the_regularised_optimum(beta: float, dense: bool):
    mdp = toy.ToyMDP.random(np.random.default_rng(11), 3, 3, num_prompts=1, dense=dense)
    config = PPOConfig(
        learning_rate=0.1,
        micro_batch_size=1000,
        kl_coef=beta,
        vf_coef=1.0,
        clip_range_vf=None,
        max_grad_norm=1e9,
        whiten_advantages=False,
    )
    agent = PPO(TabularPolicy(mdp), toy.ToyVectorEnv(128, mdp=mdp), config=config).learn(128 * 100)
    policy: Any = agent.policy
    best, found = toy.solve(mdp, beta), toy.evaluate(mdp, policy.probabilities, beta)
    assert found.objective > best.objective - 0.01 * abs(best.objective)
    assert variation(mdp, policy.probabilities, best.policy) < 0.01
    assert variation(mdp, mdp.ref_probs, best.policy) > 0.02
