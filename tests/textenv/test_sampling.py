from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from textenv.errors import ConfigError, ShapeError
from textenv.sampling import CachedLogprobs, SlotEngine

VOCAB = 60


def llama_like(config, model):
    return model(
        config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=40,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).eval()


def gpt2():
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


MODELS = {
    "llama": lambda: llama_like(LlamaConfig, LlamaForCausalLM),
    "qwen2": lambda: llama_like(Qwen2Config, Qwen2ForCausalLM),
    "gemma": lambda: llama_like(GemmaConfig, GemmaForCausalLM),
    "gpt2": gpt2,
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_engine_under_an_adversarial_driver_equals_full_forward(name: str, implementation: str):
    """Random skips, rewinds, replaced prompts and edited histories: always what a fresh forward pass says."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.set_attn_implementation(implementation)
    rng = np.random.default_rng(1)
    engine = SlotEngine(model, 6, 40)
    tokens, lengths = rng.integers(3, VOCAB, (6, 40)), rng.integers(1, 8, 6)
    for _ in range(25):
        rows = np.flatnonzero(rng.random(6) < 0.7)
        if not len(rows):
            continue
        found = engine.logits(tokens[rows], lengths[rows], rows)
        for i, row in enumerate(rows):
            expected = model(torch.as_tensor(tokens[row : row + 1, : lengths[row]])).logits[0, -1]
            torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=1e-4)
        for row in range(6):
            event = rng.random()
            if event < 0.6:
                lengths[row] = min(lengths[row] + 1, 40)
            elif event < 0.7:
                lengths[row] = rng.integers(1, lengths[row] + 1)
            elif event < 0.8:
                tokens[row, rng.integers(lengths[row])] = rng.integers(3, VOCAB)
            elif event < 0.9:
                tokens[row], lengths[row] = rng.integers(3, VOCAB, 40), rng.integers(1, 20)


@torch.no_grad()
def test_engine_drop_forgets_old_weights():
    model = MODELS["llama"]()
    engine = SlotEngine(model, 1, 10)
    tokens, rows = np.full((1, 10), 5), np.array([0])
    engine.logits(tokens, np.array([3]), rows)
    for p in model.parameters():
        p.add_(0.1)
    engine.drop()
    found = engine.logits(tokens, np.array([4]), rows)
    torch.testing.assert_close(found[0], model(torch.full((1, 4), 5)).logits[0, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_engine_feeds_one_token_where_a_sequence_went_on():
    model = MODELS["llama"]()
    fed = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    engine = SlotEngine(model, 2, 20)
    tokens, rows = np.random.default_rng(0).integers(3, VOCAB, (2, 20)), np.arange(2)
    for length in range(5, 10):
        engine.logits(tokens, np.array([length, length]), rows)
    assert fed == [8, 1, 1, 1, 1]  # a prompt's width is rounded up


@pytest.mark.parametrize(
    ("lengths", "rows", "message"),
    [([21], [0], "must lie in 1…20, got 21"), ([0], [0], "must lie in"), ([], [], "ask for at least one")],
)
def test_engine_bad_lengths_are_refused(lengths, rows, message):
    engine = SlotEngine(MODELS["llama"](), 1, 20)
    with pytest.raises(ShapeError, match=message):
        engine.logits(np.zeros((len(rows), 30), np.int64), np.array(lengths), np.array(rows, np.int64))


def test_engine_longer_than_the_context_is_refused():
    with pytest.raises(ConfigError, match="need 41 tokens, the model's context holds 40"):
        SlotEngine(MODELS["llama"](), 1, 41)


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
def test_cached_logprobs_feed_one_token_per_step_in_any_order():
    model = MODELS["llama"]()
    fed = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    ask = CachedLogprobs(model, num_slots=4, max_length=40, vocab_size=VOCAB)
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
