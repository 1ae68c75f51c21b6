from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.textenv.sampling.models import MODELS, VOCAB
from textenv.errors import ConfigError
from textenv.sampling import CachedLogprobs, SlotEngine


@torch.no_grad()
def test_cached_logprobs_equal_full_forward_whatever_is_asked():
    """Rows that go on, are shuffled, forked from one another, replaced or left out."""
    torch.manual_seed(0)
    model = MODELS["llama"]()
    rng = np.random.default_rng(2)
    ask = CachedLogprobs(model, num_slots=5, max_length=40, vocab_size=VOCAB - 4, temperature=0.7)
    tokens, lengths = rng.integers(3, VOCAB - 4, (5, 40)), rng.integers(1, 8, 5)
    for _ in range(20):
        rows = rng.permutation(5)[: rng.integers(1, 6)]
        found = ask(tokens[rows], lengths[rows])
        assert found.shape == (len(rows), VOCAB - 4)
        for i, row in enumerate(rows):
            logits = model(torch.as_tensor(tokens[row : row + 1, : lengths[row]])).logits[0, -1, : VOCAB - 4]
            expected = (logits.double() / 0.7).log_softmax(-1).numpy()
            np.testing.assert_allclose(found[i], expected, atol=1e-4)
        lengths[rows] = np.minimum(lengths[rows] + 1, 39)
        if rng.random() < 0.3:
            one, other = rng.integers(5, size=2)
            tokens[one], lengths[one] = tokens[other], lengths[other]
        if rng.random() < 0.2:
            tokens[0], lengths[0] = rng.integers(3, VOCAB - 4, 40), 3


@torch.no_grad()
def test_cached_logprobs_feed_one_token_per_step_in_any_order(monkeypatch: pytest.MonkeyPatch):
    model = MODELS["llama"]()
    ask = CachedLogprobs(model, num_slots=4, max_length=40, vocab_size=VOCAB)
    fed = []
    forward = SlotEngine._forward
    monkeypatch.setattr(
        SlotEngine,
        "_forward",
        lambda self, blocks: fed.extend(b.tokens.shape[1] for b in blocks) or forward(self, blocks),
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, VOCAB, (4, 40))
    for length in range(6, 12):
        rows = rng.permutation(4)
        ask(tokens[rows], np.full(4, length))
    assert fed == [8, 1, 1, 1, 1, 1]


def test_cached_logprobs_bad_use_is_refused():
    ask = CachedLogprobs(MODELS["llama"](), num_slots=1, max_length=40, vocab_size=VOCAB)
    with pytest.raises(ConfigError, match="asked for 2 sequences, `num_slots` is 1"):
        ask(np.full((2, 5), 3), np.array([5, 5]))
    with pytest.raises(ConfigError, match="`temperature` must be positive"):
        CachedLogprobs(MODELS["llama"](), num_slots=1, max_length=40, vocab_size=VOCAB, temperature=0)
