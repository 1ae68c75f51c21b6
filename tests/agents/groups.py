"""Experience by hand, and all groups of answers that there are with their probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agents.learning.experience import Experience, OldTokens
from agents.learning.learner import Learner
from agents.learning.rollouts import Rollout
from agents.policy import PolicyOutputs
from tests.agents.tabular import TabularPolicy, every_answer
from textenv.envs import toy
from textenv.training.world import World

MDPS = {
    "eos": toy.ToyMDP.random(np.random.default_rng(1), 3, 3),
    "dense": toy.ToyMDP.random(np.random.default_rng(2), 3, 3, dense=True),
    "fixed length": toy.ToyMDP.random(np.random.default_rng(3), 3, 2, has_eos=False),
}


def make_experience(rewards: Sequence[Sequence[float]], group_size: int = 1, values: Any = None) -> Experience:
    """Experience with these rewards per token; rows may differ in length."""
    width = max(len(row) for row in rewards)
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in rewards])
    paid = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rewards])
    zeros = torch.zeros(mask.shape)
    return Experience(
        rollout=SimpleNamespace(),  # pyright: ignore[reportArgumentType] - estimators do not look at it
        action_mask=mask,
        logprobs=zeros,
        ref_logprobs=zeros,
        values=zeros if values is None else torch.tensor(values),
        last_values=torch.zeros(len(rewards)),
        entropy=zeros,
        rewards=paid,
        importance=None,
        kl_coef=0.0,
        group_size=group_size,
        world=World(),
    )


def make_tokens(advantages: list[float], **others: list[float]) -> tuple[PolicyOutputs, OldTokens]:
    """One row of tokens before and after; what is not given is 0, and importance is 1."""

    def row(name: str, default: float = 0.0) -> torch.Tensor:
        return torch.tensor([others.get(name, [default] * len(advantages))], dtype=torch.float64)

    new = PolicyOutputs(
        row("logprobs").requires_grad_(), row("values"), torch.zeros(1, dtype=torch.float64), row("entropy")
    )
    old = OldTokens(
        counted_mask=torch.ones(1, len(advantages), dtype=torch.bool),
        logprobs=row("old_logprobs"),
        ref_logprobs=row("ref_logprobs"),
        values=row("old_values"),
        advantages=torch.tensor([advantages], dtype=torch.float64),
        returns=row("returns"),
        importance=row("importance", 1.0),
        kl_coef=others.get("kl_coef", [0.0])[0],
    )
    return new, old


def every_group(mdp: toy.ToyMDP, policy: TabularPolicy, size: int) -> tuple[Rollout, torch.Tensor]:
    """All groups of answers to one prompt as one rollout, and each group's probability, the prompt drawn uniformly."""
    rollout, probabilities = every_answer(mdp, policy)
    prompts = [episode.prompt_index for episode in rollout.episodes]
    groups = [
        group
        for prompt in range(mdp.num_prompts)
        for group in itertools.product([i for i, p in enumerate(prompts) if p == prompt], repeat=size)
    ]
    given = probabilities * mdp.num_prompts  # of an answer, given its prompt
    rows = np.array(groups).ravel()
    whole = Rollout(
        tokens=rollout.tokens[rows],
        prompt_lengths=rollout.prompt_lengths[rows],
        lengths=rollout.lengths[rows],
        action_mask=rollout.action_mask[rows],
        rewards=rollout.rewards[rows],
        behaviour_logprobs=rollout.behaviour_logprobs[rows],
        allowed=None,
        truncated=rollout.truncated[rows],
        episodes=[rollout.episodes[row] for row in rows],
        seconds=0.0,
    )
    return whole, given[torch.tensor(groups)].prod(1) / mdp.num_prompts


def make_agent(kind: type[Learner[Any]], mdp: toy.ToyMDP, config: Any, *, logits: Any = None) -> Any:
    """A learner with a random table as policy and the problem's reference."""
    rng = np.random.default_rng(7)
    start = rng.normal(size=mdp.rewards.shape) if logits is None else logits
    policy = TabularPolicy(mdp, start, values=rng.normal(size=mdp.num_states))
    envs = toy.ToyVectorEnv(2 * config.group_size, mdp=mdp)
    return kind(policy, envs, reference=TabularPolicy(mdp), config=config)


def expected_gradient(agent: Any, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Ascent direction of one update in expectation over groups, shape ``(S, V)``: enumerated, at ratio 1.

    Constant aggregation divides by rows and length limit, sequence_mean by rows and length; rows and length limit are
    taken out again.
    """
    assert agent.config.loss_aggregation != "token_mean", "its denominator is random: no expectation is enumerated here"
    mdp, size = agent.policy.mdp, agent.config.group_size
    rollout, probabilities = every_group(mdp, agent.policy, size)
    minibatches = agent.deal(rollout)
    experience = agent.assess(rollout, minibatches)
    estimated = agent.estimate(experience)
    weights = probabilities.repeat_interleave(size) * minibatches[0].rows / size
    found: dict[str, np.ndarray] = {}

    def capture() -> None:
        found["gradient"] = agent.policy.model.base_model.rows.grad[:-1, :-1].numpy().copy()

    monkeypatch.setattr(agent.optimizer, "step", capture)
    weighted = replace(experience, importance=weights[:, None] * experience.action_mask)
    figures = agent.update(weighted, estimated, minibatches[0])
    assert figures["policy/ratio"] == pytest.approx(1.0, abs=1e-12)
    return -found["gradient"] * mdp.horizon


def variation(mdp: toy.ToyMDP, policy: np.ndarray, other: dict[Any, float]) -> float:
    """Total variation between a policy's answers and another distribution over answers, the mean over prompts."""
    ours = toy.answer_distribution(mdp, policy)
    apart = sum(abs(ours.get(answer, 0.0) - other.get(answer, 0.0)) for answer in ours.keys() | other.keys())
    return 0.5 * apart / mdp.num_prompts
