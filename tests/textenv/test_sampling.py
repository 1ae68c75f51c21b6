from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
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
from textenv.sampling import CachedLogprobs, SamplingParams, SlotEngine, draw, trajectory_uniforms

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


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(), [0, 1, 2, 3, 4]),
        (SamplingParams(temperature=0.5), [0, 1, 2, 3, 4]),
        (SamplingParams(top_k=2), [0, 1]),
        (SamplingParams(top_p=0.8), [0, 1, 4]),
        (SamplingParams(temperature=2.0, top_k=4, top_p=0.9), [0, 1, 2, 4]),
    ],
    ids=["plain", "cold", "top-k", "top-p", "all"],
)
def test_draws_follow_the_exact_distribution(params: SamplingParams, kept: list[int]):
    n = 40_000
    drawn = draw(LOGITS.expand(n, 5), params, np.random.default_rng(0).random(n))
    full = (LOGITS.double() / params.temperature).softmax(0).numpy()
    exact = np.zeros(5)
    exact[kept] = full[kept] / full[kept].sum()
    counts = np.bincount(drawn.tokens.numpy(), minlength=5)
    assert counts[[i for i in range(5) if i not in kept]].sum() == 0
    assert chisquare(counts[kept], exact[kept] * n).pvalue > 1e-3
    tokens = drawn.tokens.numpy()
    np.testing.assert_allclose(drawn.behaviour_logprobs.numpy(), np.log(exact[tokens]), atol=1e-6)
    np.testing.assert_allclose(drawn.logprobs.numpy(), np.log(full[tokens]), atol=1e-6)


def test_draw_top_k_keeps_k_tokens_where_logits_tie():
    n = 2000
    drawn = draw(torch.zeros(n, 10), SamplingParams(top_k=2), np.random.default_rng(0).random(n))
    assert len(set(drawn.tokens.tolist())) == 2
    np.testing.assert_allclose(drawn.behaviour_logprobs.numpy(), np.log(0.5), atol=1e-6)


def test_draw_greedy_takes_the_largest_with_certainty():
    drawn = draw(LOGITS[None], SamplingParams(temperature=0), np.array([0.99]))
    assert drawn.tokens.tolist() == [0]
    assert drawn.behaviour_logprobs.tolist() == [0]
    assert drawn.logprobs.item() == pytest.approx(LOGITS.log_softmax(0)[0].item())


def test_draw_never_gives_a_forbidden_token_even_at_the_edges():
    allowed = torch.tensor([False, True, False, True, False])
    for u in (0.0, 0.5, 1 - 1e-17):
        drawn = draw(LOGITS[None], SamplingParams(), np.array([u]), allowed=allowed)
        assert drawn.tokens.item() in (1, 3)


def test_draw_bfloat16_large_vocabulary_stays_in_range():
    logits = torch.zeros(64, 50_000, dtype=torch.bfloat16)
    drawn = draw(logits, SamplingParams(), np.full(64, np.nextafter(1, 0)))
    assert drawn.tokens.max() < 50_000
    assert drawn.logprobs[0].item() == pytest.approx(-np.log(50_000), abs=1e-3)


def test_trajectory_uniforms_depend_on_seed_and_number_alone():
    alone = trajectory_uniforms(3, np.array([7]), 5)
    beside = trajectory_uniforms(3, np.array([2, 7, 9]), 9)
    np.testing.assert_array_equal(alone[0], beside[1, :5])
    assert (trajectory_uniforms(4, np.array([7]), 5) != alone).all()
    assert trajectory_uniforms(3, np.array([], np.int64), 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, "`temperature` must be ≥ 0"),
        ("top_k", -1, "`top_k` must be ≥ 0"),
        ("top_p", 0.0, r"`top_p` must lie in \(0, 1\]"),
        ("max_new_tokens", 0, "`max_new_tokens` must be ≥ 1"),
    ],
)
def test_sampling_params_refuse_nonsense(field, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**{field: value})


def test_full_support_only_without_truncation():
    assert SamplingParams(temperature=0.7).full_support
    assert not SamplingParams(top_k=5).full_support
    assert not SamplingParams(temperature=0).full_support


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
