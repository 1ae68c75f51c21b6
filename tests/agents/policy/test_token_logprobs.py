"""Scores of tokens in chunks against plain autograd on the whole logits, with and without the compiled helpers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agents.policy import token_logprobs as module
from agents.policy.token_logprobs import cross_entropy, token_logprobs

WIDTH, VOCABULARY, ROWS = 16, 700, 9


@pytest.fixture(params=["compiled", "torch"])
def backend(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(module, "kernels", lambda: None)
    elif module.kernels() is None:
        pytest.skip("no C compiler")


def slope(leaf: torch.Tensor) -> torch.Tensor:
    """The gradient of a leaf, in float64."""
    assert leaf.grad is not None
    return leaf.grad.double()


def make(dtype=torch.float32, *, bias=False, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, vocabulary, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY // 2, (ROWS,), generator=generator)
    weights = torch.randn(2, ROWS, generator=generator, dtype=torch.float64)
    return head, hidden, targets, weights


def reference(head, hidden, targets, weights, *, temperature=1.0, allowed=None, vocabulary=VOCABULARY):
    """Log-probs, entropies and gradients of their weighted sum, in float64 from whole logits."""
    leaves = [x.detach().double().requires_grad_() for x in (hidden, *head.parameters())]
    logits = torch.nn.functional.linear(*leaves)[:, :vocabulary] / temperature
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_p = logits.log_softmax(-1)
    logprobs = log_p.gather(1, targets[:, None]).squeeze(1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    (weights[0] @ logprobs + weights[1] @ entropy).backward()
    return logprobs.detach(), entropy.detach(), [slope(leaf) for leaf in leaves]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_scores_and_gradients_equal_autograd(backend, dtype, tolerance, bias, masked, temperature):
    head, hidden, targets, weights = make(dtype, bias=bias)
    allowed = None
    if masked:
        allowed = torch.rand(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(1)) < 0.3
        allowed[torch.arange(ROWS), targets] = True
    expected = reference(head, hidden, targets, weights, temperature=temperature, allowed=allowed)
    bits = None if allowed is None else np.packbits(allowed.numpy(), axis=1)
    found = token_logprobs(head, hidden, targets, temperature=temperature, allowed=bits, entropy=True)
    (weights[0].to(dtype) @ found.logprobs + weights[1].to(dtype) @ found.entropy).backward()
    torch.testing.assert_close(found.logprobs.double(), expected[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.entropy.double(), expected[1], atol=tolerance, rtol=tolerance)
    for leaf, gradient in zip((hidden, *head.parameters()), expected[2], strict=True):
        torch.testing.assert_close(slope(leaf), gradient, atol=20 * tolerance, rtol=tolerance)


def test_bfloat16_gradients_are_as_good_as_autograds(backend):
    head, hidden, targets, weights = make(torch.bfloat16)
    _, _, exact = reference(head, hidden, targets, weights)
    errors = []
    for entire in (False, True):
        head.weight.grad = hidden.grad = None
        if entire:
            log_p = head(hidden).float().log_softmax(-1)
            logprobs, entropy = log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)
        else:
            logprobs, entropy = token_logprobs(head, hidden, targets, entropy=True)
        (weights[0].float() @ logprobs + weights[1].float() @ entropy).backward()
        pairs = zip((hidden, head.weight), exact, strict=True)
        errors.append([float((slope(x) - y).norm() / y.norm()) for x, y in pairs])
    assert np.all(np.array(errors[0]) < 1.3 * np.array(errors[1]))
    assert np.max(errors[0]) < 0.02


def test_padded_vocabulary_gets_no_probability_and_no_gradient(backend):
    head, hidden, targets, weights = make(vocabulary=VOCABULARY + 20)
    expected = reference(head, hidden, targets, weights)
    found = token_logprobs(head, hidden, targets, vocab_size=VOCABULARY, entropy=True)
    (weights[0].float() @ found.logprobs + weights[1].float() @ found.entropy).backward()
    torch.testing.assert_close(found.logprobs.double(), expected[0], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(slope(head.weight), expected[2][1], atol=4e-4, rtol=2e-5)
    assert (slope(head.weight)[VOCABULARY:] == 0).all()


def test_values_are_the_same_bits_with_and_without_gradients(backend):
    head, hidden, targets, _ = make(torch.bfloat16)
    with torch.no_grad():
        without = token_logprobs(head, hidden, targets, temperature=0.7)
    assert torch.equal(token_logprobs(head, hidden, targets, temperature=0.7).logprobs, without.logprobs)


def test_frozen_head_gets_no_gradient(backend):
    head, hidden, targets, weights = make()
    expected = reference(head, hidden, targets, weights * torch.tensor([[1.0], [0.0]]))
    head.requires_grad_(False)
    (weights[0].float() @ token_logprobs(head, hidden, targets).logprobs).backward()
    assert head.weight.grad is None
    torch.testing.assert_close(slope(hidden), expected[2][0], atol=4e-4, rtol=2e-5)


def test_head_that_is_more_than_one_product_goes_through_its_own_call():
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    head, hidden, targets, _ = make()
    doubled = Doubled(WIDTH, VOCABULARY, bias=False)
    doubled.load_state_dict(head.state_dict())
    found = token_logprobs(doubled, hidden, targets, entropy=True)
    half = token_logprobs(head, hidden, targets, temperature=0.5, entropy=True)
    torch.testing.assert_close(found.logprobs, half.logprobs, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found.entropy, half.entropy, atol=2e-5, rtol=2e-5)


def test_impossible_token_has_no_probability(backend):
    head, hidden, targets, _ = make()
    allowed = np.ones((ROWS, VOCABULARY), bool)
    allowed[0, targets[0]] = False
    found = token_logprobs(head, hidden, targets, allowed=np.packbits(allowed, axis=1))
    assert found.logprobs[0] == -torch.inf
    assert found.logprobs[1:].isfinite().all()


@pytest.mark.parametrize("chunk", [3 * VOCABULARY, 10**6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_cross_entropy_and_its_gradients_equal_autograd(backend, monkeypatch, dtype, tolerance, bias, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk * dtype.itemsize)
    head, hidden, targets, weights = make(dtype, bias=bias)
    expected, _, gradients = reference(head, hidden, targets, weights * torch.tensor([[-0.5], [0.0]]))
    loss = cross_entropy(head, hidden, targets, weights[0].to(dtype))
    (loss * 0.5).backward()

    torch.testing.assert_close(loss.double(), -(weights[0] @ expected), atol=10 * tolerance, rtol=tolerance)
    for leaf, gradient in zip((hidden, *head.parameters()), gradients, strict=True):
        torch.testing.assert_close(slope(leaf), gradient, atol=20 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("chunk", [3 * VOCABULARY, 10**6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
def test_cross_entropy_of_states_that_predict_several_tokens(backend, monkeypatch, dtype, tolerance, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk * dtype.itemsize)
    head, hidden, *_ = make(dtype, bias=True)
    generator = torch.Generator().manual_seed(3)
    rows = torch.cat([torch.arange(ROWS), torch.randint(ROWS, (2 * ROWS,), generator=generator)])
    rows = rows[torch.randperm(len(rows), generator=generator)]
    targets = torch.randint(VOCABULARY, (len(rows),), generator=generator)
    targets[::3] = 1  # the same token from the same state, too
    weights = torch.randn(len(rows), generator=generator, dtype=torch.float64).to(dtype)
    found = []
    for together in (True, False):
        head.zero_grad()
        hidden.grad = None
        states, own = (hidden, rows) if together else (hidden[rows], None)
        loss = cross_entropy(head, states, targets, weights, own)
        loss.backward()
        found.append([loss.detach().double(), *(slope(leaf).clone() for leaf in (hidden, *head.parameters()))])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, atol=20 * tolerance, rtol=tolerance)


def test_bfloat16_states_that_predict_several_tokens_count_as_several_states(backend):
    head, hidden, targets, _ = make(torch.bfloat16)
    rows, many = torch.arange(ROWS).repeat(9), targets.repeat(9)
    weights = torch.full((9 * ROWS,), 1 / ROWS)
    found = []
    for states, own in ((hidden, rows), (hidden[rows], None)):
        hidden.grad = None
        cross_entropy(head, states, many, weights, own).backward()
        found.append(slope(hidden).clone())
    torch.testing.assert_close(*found, atol=0, rtol=0)


def test_cross_entropy_gives_gradients_where_they_are_wanted(backend):
    head, hidden, targets, weights = make(bias=True)
    head.weight.requires_grad_(False)
    cross_entropy(head, hidden, targets, weights[0]).backward()
    assert head.weight.grad is None
    assert head.bias.grad is not None
    with torch.no_grad():
        assert not cross_entropy(head, hidden, targets, weights[0]).requires_grad


def test_cross_entropy_through_a_head_that_is_more_than_one_product():
    head, hidden, targets, weights = make()
    through = nn.Sequential(head, nn.Identity())
    through.weight = head.weight  # type: ignore[assignment]  # what the chunks' size is taken from
    found = cross_entropy(through, hidden, targets, weights[0].float())
    torch.testing.assert_close(found, cross_entropy(head, hidden, targets, weights[0].float()))
    twice = torch.arange(len(targets)).repeat(2)
    several = (hidden, targets.repeat(2), weights[0].float().repeat(2), twice)
    torch.testing.assert_close(cross_entropy(through, *several), 2 * found)


def test_bfloat16_cross_entropy_is_as_good_as_autograds(backend):
    head, hidden, targets, weights = make(torch.bfloat16)
    weights[1] = 0
    _, _, exact = reference(head, hidden, targets, -weights)
    errors = []
    for entire in (False, True):
        head.weight.grad = hidden.grad = None
        if entire:
            logprobs = head(hidden).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
            (-weights[0].float() @ logprobs).backward()
        else:
            cross_entropy(head, hidden, targets, weights[0]).backward()
        pairs = zip((hidden, head.weight), exact, strict=True)
        errors.append([float((slope(x) - y).norm() / y.norm()) for x, y in pairs])
    assert np.all(np.array(errors[0]) < 1.3 * np.array(errors[1]))
