from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.policy import token_logprobs as module
from agents.policy.forward import SequenceBatch, check_exact, response_hidden, response_tokens
from agents.policy.token_logprobs import token_logprobs
from textenv.errors import ConfigError, ShapeError

PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10, 11]]
RESPONSES = [[12, 13, 2], [14], [15, 16, 17, 18, 2]]


def plain_logprobs(model, prompt, response):
    """Log-probs of one sequence from the model's own logits, no padding."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


def test_evaluate_padded_batch_equals_one_by_one(policy):
    with torch.no_grad():
        scores = policy.evaluate(SequenceBatch.from_ids(PROMPTS, RESPONSES), entropy=True)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            expected = plain_logprobs(policy.model, prompt, response)
            torch.testing.assert_close(scores.logprobs[row, : len(response)], expected, atol=1e-5, rtol=1e-5)
            assert (scores.logprobs[row, len(response) :] == 0).all()
            alone = policy.evaluate(SequenceBatch.from_ids([prompt], [response]), entropy=True)
            for name in ("values", "entropy"):
                whole, single = getattr(scores, name), getattr(alone, name)
                torch.testing.assert_close(whole[row, : len(response)], single[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(scores.last_values[row], alone.last_values[0], atol=1e-5, rtol=1e-5)


def test_values_stand_before_their_token(policy):
    """Changing the last answer token changes no value or log-prob before it, only what comes after it."""
    changed = [*RESPONSES[2][:-1], 99]
    with torch.no_grad():
        one = policy.evaluate(SequenceBatch.from_ids([PROMPTS[2]], [RESPONSES[2]]))
        other = policy.evaluate(SequenceBatch.from_ids([PROMPTS[2]], [changed]))
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.logprobs[:, :-1], other.logprobs[:, :-1])
    assert (one.last_values - other.last_values).abs() > 1e-4


def test_temperature_divides_the_logits(policy):
    batch = SequenceBatch.from_ids(PROMPTS[:1], RESPONSES[:1])
    with torch.no_grad():
        found = policy.evaluate(batch, temperature=0.5).logprobs
        logits = policy.model(input_ids=batch.tokens).logits[0, 2:5] / 0.5
    expected = logits.log_softmax(-1).gather(1, torch.tensor(RESPONSES[0])[:, None]).squeeze(1)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_score_tokens_in_chunks_gives_same_values_and_gradients(policy, monkeypatch):
    batch = SequenceBatch.from_ids(PROMPTS, RESPONSES)
    head = policy.model.get_output_embeddings()
    hidden, _ = response_hidden(policy.model, batch)
    gradients = []
    for elements in (16_000_000, 3 * 280):
        monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * elements)
        leaf = hidden.detach().requires_grad_()
        scores = token_logprobs(head, leaf, response_tokens(batch), entropy=True)
        (scores.logprobs.sum() + scores.entropy.sum()).backward()
        gradients.append((scores.logprobs.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_score_tokens_allowed_masks_renormalise(policy):
    batch = SequenceBatch.from_ids(PROMPTS[:1], RESPONSES[:1])
    head = policy.model.get_output_embeddings()
    hidden, _ = response_hidden(policy.model, batch)
    allowed = np.zeros((3, 280), bool)
    allowed[:, [2, 12, 13]] = True
    scores = token_logprobs(head, hidden, response_tokens(batch), allowed=np.packbits(allowed, axis=1), entropy=True)
    logits = head(hidden)[:, [12, 13, 2]]
    expected = logits.log_softmax(-1).diagonal()
    torch.testing.assert_close(scores.logprobs, expected, atol=1e-5, rtol=1e-5)
    assert (scores.entropy <= np.log(3) + 1e-5).all()
    scores.entropy.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.model.parameters() if p.grad is not None)


def test_action_mask_leaves_out_tokens_of_others():
    tokens = np.array([[1, 5, 10, 11, 12]])
    batch = SequenceBatch.from_arrays(tokens, np.array([2]), np.array([5]), np.array([[True, False, True]]))
    assert response_tokens(batch).tolist() == [10, 12]


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [([[1]], [], "1 prompts and 0 responses"), ([], [], "0 prompts"), ([[1]], [[]], "at least one token")],
)
def test_sequence_batch_bad_input_is_refused(prompts, responses, message):
    with pytest.raises(ShapeError, match=message):
        SequenceBatch.from_ids(prompts, responses)


def test_check_scoring_refuses_scaled_logits(policy, monkeypatch):
    check_exact(policy.model)
    original = type(policy.model).forward

    def scaled(self, *args, **kwargs):
        out = original(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(type(policy.model), "forward", scaled)
    with pytest.raises(ConfigError, match="changes its logits"):
        check_exact(policy.model)
