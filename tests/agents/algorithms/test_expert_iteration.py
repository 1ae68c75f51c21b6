from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.algorithms.expert_iteration import (
    ExpertIteration,
    ExpertIterationConfig,
    best_of_group,
    expert_advantages,
    expert_loss,
)
from tests.agents.groups import (
    MDPS,
    every_group,
    expected_gradient,
    make_agent,
    make_experience,
    make_tokens,
    variation,
)
from textenv.envs import toy
from textenv.errors import ConfigError

EXACT = ExpertIterationConfig(group_size=2, max_grad_norm=1e9, micro_batch_size=100_000)


def test_best_of_group_hand_worked():
    found = best_of_group(torch.tensor([[1.0, 6.0, 2.0], [5.0, 5.0, 5.0], [-1.0, -2.0, -1.0]]))
    assert found.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_best_of_group_is_the_slow_loop():
    rewards = torch.randint(0, 3, (20, 4), generator=torch.Generator().manual_seed(0)).float()
    slow = [[float(i == row.index(max(row))) for i in range(len(row))] for row in rewards.tolist()]
    assert best_of_group(rewards).tolist() == slow


def test_best_answer_counts_for_its_whole_group():
    experience = make_experience([[0, 0, 4.0], [1.0], [0.5, 0.5], [0, 2.0, 0]], group_size=2)
    found = expert_advantages(experience, ExpertIterationConfig(group_size=2))
    assert found.advantages.tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 0], [2, 2, 2]]


def test_loss_hand_worked():
    """Cross-entropy, whatever the ratio."""
    new, old = make_tokens([2.0, 0.0], logprobs=[-0.3, -5.0], old_logprobs=[-1.9, -1.0])
    assert expert_loss(new, old, ExpertIterationConfig()).total.tolist()[0] == pytest.approx([0.6, 0.0])


def imitation_gradient(mdp: toy.ToyMDP, policy: np.ndarray, size: int) -> np.ndarray:
    """∇ E[log π(y)] for y from best-of-n of the policy: Σ over states of (flow of the best − its total · π)."""
    flow = np.zeros_like(policy)
    for (prompt, tokens), probability in toy.best_of_n_distribution(mdp, policy, size).items():
        for t, token in enumerate(tokens):
            flow[mdp.state_index(prompt, tokens[:t]), token] += probability / mdp.num_prompts
    return flow - flow.sum(1, keepdims=True) * policy


@pytest.mark.parametrize("name", ["eos", "fixed length"])
@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradient_is_that_of_the_cross_entropy_to_best_of_n(name: str, size: int, monkeypatch):
    mdp = MDPS[name] if size == 2 else toy.ToyMDP.random(np.random.default_rng(4), 3, 2, has_eos=name == "eos")
    agent = make_agent(ExpertIteration, mdp, replace(EXACT, group_size=size))
    expected = imitation_gradient(mdp, agent.policy.probabilities, size)
    np.testing.assert_allclose(expected_gradient(agent, monkeypatch), expected, atol=1e-9)
    assert np.abs(expected).max() > 0.01


def test_rounds_taken_to_their_end_make_best_of_n_to_the_power_of_the_rounds():
    """The fixed point of one round is best-of-2 of what played; the second round's is best-of-4 of the start."""
    mdp = toy.ToyMDP.random(np.random.default_rng(4), 3, 2)
    start = np.log(mdp.ref_probs)
    agent = make_agent(ExpertIteration, mdp, EXACT, logits=start)
    for played in (2, 4):
        rollout, probabilities = every_group(mdp, agent.policy, 2)
        minibatches = agent.deal(rollout)
        experience = agent.assess(rollout, minibatches)
        weights = probabilities.repeat_interleave(2) * minibatches[0].rows / 2
        weighted = replace(experience, importance=weights[:, None] * experience.action_mask)
        for step in range(120):
            agent.optimizer.param_groups[0]["lr"] = 0.2 * 0.96**step
            agent.update(weighted, agent.estimate(experience), minibatches[0])
        expected = toy.best_of_n_distribution(mdp, mdp.ref_probs, played)
        assert variation(mdp, agent.policy.probabilities, expected) < 0.01
        assert variation(mdp, mdp.ref_probs, expected) > 0.1


def test_config_refuses_a_group_of_one():
    with pytest.raises(ConfigError, match=r"`group_size` must be ≥ 2, got 1: .* set it in `ExpertIterationConfig`"):
        ExpertIterationConfig(group_size=1)
