"""NaN and infinity stop a run, wherever they come up, and say where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.ppo import PPO, gae_advantages, ppo_loss
from tests.agents.algorithms.test_ppo_options import make_text
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.errors import RewardError, RunCheckError
from textenv.runs import Run


def one_iteration_later(policy: Any, tokenizer: Any, folder: Path, **options: Any) -> PPO:
    """An agent with a checkpoint behind it."""
    run = Run(folder, tensorboard=False)
    agent = PPO(policy, make_envs(tokenizer, variety), config=options.pop("config", CONFIG), run=run, **options)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(80, callback=lambda a, m: (_ for _ in ()).throw(KeyboardInterrupt) if a.iteration == 2 else None)
    return agent


def spoil(x: torch.Tensor, value: float = torch.nan) -> torch.Tensor:
    """The same tensor with one number in row 3 gone."""
    x = x.clone()
    x.view(len(x), -1)[3, 0] = value
    return x


@pytest.mark.parametrize("field", ["logprobs", "ref_logprobs", "values", "rewards", "entropy"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scoring_names_quantity_row_prompt_and_checkpoint(
    policy, tokenizer, tmp_path: Path, monkeypatch, field: str, value: float
):
    agent = one_iteration_later(policy, tokenizer, tmp_path)
    original = agent.assess

    def broken(*arguments):
        experience = original(*arguments)
        return replace(experience, **{field: spoil(getattr(experience, field), value)})

    monkeypatch.setattr(agent, "assess", broken)
    message = rf"scoring of iteration 2: `{field}` is not finite in row\(s\) 3 of the batch \(the first: prompt '.+'"
    with pytest.raises(RunCheckError, match=message + r", response .*last good checkpoint: .*step-00000001"):
        agent.iterate(1e-3)


def test_rollout_of_a_broken_policy_is_stopped_before_anything_is_learned(policy, tokenizer, tmp_path: Path):
    agent = one_iteration_later(policy, tokenizer, tmp_path)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[7] = torch.nan
    message = "rollout of iteration 2: .*logits are NaN.* in slot 0, prompt '.*; last good checkpoint: .*step-00000001"
    with pytest.raises(RunCheckError, match=message):
        agent.iterate(1e-3)


def test_reward_that_is_not_finite_names_prompt_phase_and_checkpoint(policy, tokenizer, tmp_path: Path):
    scored: list[str] = []

    def fails_later(prompts, responses):
        scored.extend(responses)
        return [np.inf if len(scored) > 20 else float(len(r)) for r in responses]

    run = Run(tmp_path, tensorboard=False)
    agent = PPO(policy, make_envs(tokenizer, fails_later), config=CONFIG, run=run)
    message = r"rollout of iteration 2: .*inf.*prompt.*; last good checkpoint: .*step-00000002"
    with pytest.raises(RewardError, match=message):
        agent.learn(80)


def test_broken_advantages_are_named(policy, tokenizer):
    def broken(experience, config):
        found = gae_advantages(experience, config)
        assert found.returns is not None
        return found._replace(returns=spoil(found.returns))

    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, advantage_estimator=broken)
    with pytest.raises(RunCheckError, match=r"advantage estimation of iteration 0: `returns` is not .* row\(s\) 3 of"):
        agent.iterate(1e-3)


def test_broken_loss_names_its_rows_and_leaves_the_weights(policy, tokenizer):
    marked: list[int] = []

    def broken(new, old, config):
        found = ppo_loss(new, old, config)
        rows = (old.returns == target).any(1).nonzero().flatten()
        if len(rows):
            found.total[rows[0], 0] = torch.nan
            found.figures["loss/policy"][rows[0], 0] = torch.nan
        return found

    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, loss=broken)
    original = agent.estimate

    def estimate(experience):
        nonlocal target
        estimated = original(experience)
        assert estimated.returns is not None
        target = float(estimated.returns[5, 0])
        marked.append(5)
        return estimated

    target = 0.0
    agent.estimate = estimate
    before = [p.detach().clone() for p in policy.parameters()]
    with pytest.raises(
        RunCheckError, match=r"update of step 0: loss/policy is not finite, in row\(s\) 5 of the batch \(the first"
    ):
        agent.iterate(1e-3)
    assert agent.trainer.updates <= 1  # the minibatch without row 5 may have come first
    if not agent.trainer.updates:
        assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))


def test_broken_ptx_loss_is_named(policy, tokenizer, monkeypatch):
    import agents.learning.learner as module

    def broken(policy, examples, **options):
        return torch.tensor(torch.nan)

    monkeypatch.setattr(module, "ptx_backward", broken)
    config = replace(CONFIG, ptx_coef=1.0)
    agent = PPO(policy, make_envs(tokenizer, variety), config=config, ptx=[make_text(2)])
    with pytest.raises(RunCheckError, match="update of step 0: loss/ptx is not finite"):
        agent.iterate(1e-3)


def test_infinite_metric_of_a_callback_is_not_logged(policy, tokenizer, tmp_path: Path):
    run = Run(tmp_path, tensorboard=False)
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, run=run)
    with pytest.raises(RunCheckError, match="ppo, step 1: mine/x is not finite"):
        agent.learn(16, callback=lambda a, m: m.update({"mine/x": float(np.inf)}))
