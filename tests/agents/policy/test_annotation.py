"""What models say about stored answers: the same as full forward passes in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.policy.annotation import annotate
from textenv.errors import ConfigError
from textenv.sampling.params import SamplingParams
from textenv.trajectories import importance_weights, summarize

PROMPTS = ["the old film", "a"]


@torch.no_grad()
def next_token_logprobs(policy, trajectory, temperature: float = 1.0) -> torch.Tensor:
    """Of every token at every place of the answer, float64, ``(T, V)``."""
    ids = torch.as_tensor([*trajectory.prompt_ids, *trajectory.token_ids])[None]
    logits = policy.causal_lm(ids).logits[0, len(trajectory.prompt_ids) - 1 : -1, : policy.vocab_size].double()
    return (logits / temperature).log_softmax(-1)


def test_annotated_answers_agree_with_full_forward_passes(make_policy):
    policy, reference = make_policy(0, value_noise=1.0), make_policy(1)
    sampling = SamplingParams(temperature=0.8, max_new_tokens=6)
    answers = policy.generate(PROMPTS, sampling, n=3, seed=0)
    annotate(answers, policy, reference=reference, sampling=sampling, batch_size=4)
    for answer in answers:
        ours, theirs = next_token_logprobs(policy, answer), next_token_logprobs(reference, answer)
        drawn = next_token_logprobs(policy, answer, 0.8)
        tokens = torch.as_tensor(answer.token_ids)[:, None]
        np.testing.assert_allclose(answer.ref_logprobs, theirs.gather(1, tokens)[:, 0], atol=1e-4)
        np.testing.assert_allclose(answer.entropy, -(ours.exp() * ours).sum(1), atol=1e-4)
        np.testing.assert_allclose(answer.exact_kl, (drawn.exp() * (drawn - theirs)).sum(1), atol=1e-4)
        assert answer.values is not None
        assert len(answer.values) == len(answer)
        assert answer.last_value is not None


def test_exact_kl_is_left_out_where_the_sampler_did_more_than_cool(make_policy):
    sampling = SamplingParams(top_k=5, max_new_tokens=3)
    policy = make_policy(0)
    answers = policy.generate(PROMPTS, sampling)
    annotate(answers, policy, reference=make_policy(1), sampling=sampling)
    assert all(a.exact_kl is None and a.ref_logprobs is not None and a.values is None for a in answers)


def test_policy_can_be_asked_for_importance_weights_directly(make_policy):
    policy, other = make_policy(0), make_policy(1)
    answers = policy.generate(PROMPTS, SamplingParams(max_new_tokens=5), n=4, seed=1)
    np.testing.assert_allclose(importance_weights(answers, policy).log_weights, 0, atol=1e-4)
    found = importance_weights(answers, other, temperature=0.5)
    for row, answer in enumerate(answers):
        exact = next_token_logprobs(other, answer, 0.5).gather(1, torch.as_tensor(answer.token_ids)[:, None])[:, 0]
        expected = exact.numpy() - answer.behaviour_logprobs
        np.testing.assert_allclose(np.asarray(found.log_ratios[row]), expected, atol=1e-4)


def test_estimates_of_one_sample_agree_with_each_other(make_policy):
    policy, reference = make_policy(0), make_policy(1)
    with torch.no_grad():
        for p in reference.causal_lm.parameters():
            p.mul_(3.0)
    answers = policy.generate(PROMPTS, SamplingParams(max_new_tokens=6), n=200, seed=2)
    annotate(answers, policy, reference=reference)
    found = summarize(answers, np.random.default_rng(0)).kl
    for name in ("k1", "k3"):
        apart = abs(found[name].value - found["exact"].value)
        assert apart < 4 * np.hypot(found[name].standard_error, found["exact"].standard_error)
    k1 = [float((a.logprobs - a.ref_logprobs).sum()) for a in answers if a.ref_logprobs is not None]
    exact = [float(a.exact_kl.sum()) for a in answers if a.exact_kl is not None]
    assert len(k1) == len(exact) == len(answers)
    assert np.std(exact) < np.std(k1)


def test_other_vocabularies_are_refused(make_policy):
    class Other:
        vocab_size = 7

    with pytest.raises(ConfigError, match="the reference knows 7 tokens"):
        annotate([], make_policy(0), reference=Other())  # pyright: ignore[reportArgumentType]
