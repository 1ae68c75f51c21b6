from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from tests.textenv.sampling.models import CONTEXT, MODELS, PACKED, VOCAB, soft_capping_model
from textenv.errors import ConfigError, ShapeError
from textenv.sampling import SlotEngine, models, packed_decoding, slots
from textenv.sampling.cuda_graphs import RecordedSteps


def make_engine(monkeypatch: pytest.MonkeyPatch, model: Any, path: str, num_slots: int, max_length: int) -> SlotEngine:
    """An engine that decodes in one of the three ways that machines and models lead to."""
    if path == "packed without compiled helpers":
        monkeypatch.setattr(packed_decoding, "kernels", lambda: None)
    if path in ("sdpa", "eager"):
        monkeypatch.setattr(slots, "packed_decoder", lambda model: None)
        model.set_attn_implementation(path)
    engine = SlotEngine(model, num_slots, max_length)
    if path == "recorded":
        monkeypatch.setattr(packed_decoding.PackedLinear, "addresses", lambda self: [])
        assert engine._packed is not None
        engine._recorded = RecordedSteps(engine._packed, engine._cache, rerun)
    return engine


def rerun(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Stands for a CUDA graph: the same work on the same tensors, at every replay."""
    result = run()

    def replay() -> None:
        result.copy_(run())

    return replay, result


# What fresh forward passes of a model say about single rows: every path is driven alike, so each is computed once.
WHOLE: dict[str, dict[bytes, torch.Tensor]] = {}
PATHS = ["packed", "packed without compiled helpers", "sdpa", "eager"]


@pytest.mark.parametrize(
    ("name", "path"), [*itertools.product(MODELS, PATHS), ("llama", "recorded"), ("qwen3", "recorded")]
)
@torch.no_grad()
def test_engine_under_an_adversarial_driver_equals_full_forward(monkeypatch: pytest.MonkeyPatch, name: str, path: str):
    """Random skips, rewinds, forks, shared prompts, edited histories: always what a fresh forward pass says."""
    torch.manual_seed(0)
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    count = 20
    engine = make_engine(monkeypatch, model, path, count, CONTEXT)
    whole: dict[bytes, torch.Tensor] = WHOLE.setdefault(name, {})
    tokens, lengths = rng.integers(3, VOCAB, (count, CONTEXT)), rng.integers(1, 8, count)
    for turn in range(20):
        rows = rng.permutation(count)[: rng.integers(1, count + 1 if turn % 3 else 4)]
        found = engine.logits(tokens[rows], lengths[rows], rows)
        for i, row in enumerate(rows):
            key = tokens[row].tobytes()
            if key not in whole:
                whole[key] = model(torch.as_tensor(tokens[row : row + 1])).logits[0]
            torch.testing.assert_close(found[i], whole[key][lengths[row] - 1], atol=1e-4, rtol=1e-4)
        for row in range(count):
            event, other = rng.random(), rng.integers(count)
            if event < 0.5:
                lengths[row] = min(lengths[row] + 1, CONTEXT)
            elif event < 0.6:
                lengths[row] = rng.integers(1, lengths[row] + 1)
            elif event < 0.7:
                tokens[row, rng.integers(lengths[row])] = rng.integers(3, VOCAB)
            elif event < 0.8:
                tokens[row], lengths[row] = rng.integers(3, VOCAB, CONTEXT), rng.integers(1, 20)
            elif event < 0.9:
                tokens[row], lengths[row] = tokens[other], lengths[other]
            elif event < 0.95:
                engine.fork(np.array([other]), np.array([row]))


@pytest.mark.parametrize("name", PACKED)
def test_llama_kinds_are_packed(name: str):
    assert packed_decoding.packed_decoder(MODELS[name]()) is not None


def feeds(engine: SlotEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of tokens in each block that goes through the model from now on, rows times width."""
    seen: list[int] = []
    forward = engine._forward
    monkeypatch.setattr(
        engine, "_forward", lambda blocks: seen.extend(b.tokens.numel() for b in blocks) or forward(blocks)
    )
    return seen


def test_engine_feeds_one_token_where_a_sequence_went_on(monkeypatch: pytest.MonkeyPatch):
    engine = SlotEngine(MODELS["llama"](), 2, 20)
    fed = feeds(engine, monkeypatch)
    tokens, rows = np.random.default_rng(0).integers(3, VOCAB, (2, 20)), np.arange(2)
    for length in range(5, 10):
        engine.logits(tokens, np.array([length, length]), rows)
    assert fed == [16, 2, 2, 2, 2]  # a prompt's width is rounded up to 8


def test_a_common_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    engine = SlotEngine(MODELS["llama"](), 10, 40)
    fed = feeds(engine, monkeypatch)
    tokens = np.tile(np.random.default_rng(0).integers(3, VOCAB, 40), (10, 1))
    engine.logits(tokens, np.full(10, 33), np.arange(10))
    assert fed == [40]  # one row for all ten; its width is rounded up to 8


def test_a_later_sample_takes_the_prompt_from_another_slot(monkeypatch: pytest.MonkeyPatch):
    engine = SlotEngine(MODELS["llama"](), 3, 40)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (3, 40))
    engine.logits(tokens, np.full(3, 30), np.arange(3))
    fed = feeds(engine, monkeypatch)
    engine.logits(tokens[:1], np.array([30]), np.array([2]))
    assert fed == [3]  # one step; the two slots that were not asked for go along idle


def test_few_running_slots_cost_few_rows(monkeypatch: pytest.MonkeyPatch):
    engine = SlotEngine(MODELS["llama"](), 64, 20)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (64, 20))
    engine.logits(tokens, np.full(64, 5), np.arange(64))
    fed = feeds(engine, monkeypatch)
    engine.logits(tokens[40:], np.full(24, 6), np.arange(40, 64))
    engine.logits(tokens[60:], np.full(4, 7), np.arange(60, 64))
    assert fed == [32, 16]


@torch.no_grad()
def test_step_appends_a_token_per_slot():
    model = MODELS["llama"]()
    engine = SlotEngine(model, 2, 8)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 8))
    engine.logits(tokens, np.array([3, 5]), np.arange(2))
    found = engine.step(np.array([7, 9]))
    expected = model(torch.tensor([[*tokens[1, :5], 9]])).logits[0, -1]
    torch.testing.assert_close(found[1], expected, atol=1e-4, rtol=1e-4)
    engine.step(np.array([3]), np.array([1]))
    engine.step(np.array([3]), np.array([1]))
    with pytest.raises(ShapeError, match=r"already has `max_length` = 8 tokens"):
        engine.step(np.array([3]), np.array([1]))


@pytest.mark.parametrize("path", ["packed", "sdpa"])
@torch.no_grad()
def test_engine_drop_takes_over_new_weights(monkeypatch: pytest.MonkeyPatch, path: str):
    model = MODELS["qwen2"]()
    engine = make_engine(monkeypatch, model, path, 1, 10)
    tokens, rows = np.full((1, 10), 5), np.array([0])
    engine.logits(tokens, np.array([3]), rows)
    for p in model.parameters():
        p.data.add_(0.1)  # written past autograd's version counter
    engine.drop()
    found = engine.logits(tokens, np.array([4]), rows)
    torch.testing.assert_close(found[0], model(torch.full((1, 4), 5)).logits[0, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_recordings_are_made_once_per_shape_and_again_when_weights_move(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_decoding, "_uses_onednn", lambda weight: False)
    monkeypatch.setattr(packed_decoding, "kernels", lambda: None)
    model = MODELS["llama"]()
    engine = SlotEngine(model, 2, 30)
    assert engine._packed is not None
    made: list[int] = []
    engine._recorded = RecordedSteps(engine._packed, engine._cache, lambda run: made.append(1) or rerun(run))
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 30))

    def check(length: int) -> None:
        found = engine.logits(tokens, np.full(2, length), np.arange(2))
        expected = model(torch.as_tensor(tokens[:, :length])).logits[:, -1]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    for length in (5, 6, 7):
        check(length)
    assert len(made) == 1
    for p in model.parameters():
        p.add_(0.05)
    engine.drop()
    check(8)
    check(9)
    assert len(made) == 1  # new weights where the old ones stood
    model.base_model.layers[0].mlp.down_proj.weight.data = torch.randn(32, 48) * 0.1
    engine.drop()
    check(10)
    check(11)
    assert len(made) == 2


@torch.no_grad()
def test_engine_with_an_adapter_equals_the_adapted_model():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    names = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=names, init_lora_weights=False)
    model = peft.get_peft_model(MODELS["llama"](), config).eval()
    base = model.get_base_model()
    engine = SlotEngine(base, 2, 20)
    assert engine._packed is not None
    tokens, rows = np.random.default_rng(0).integers(3, VOCAB, (2, 20)), np.arange(2)
    for length in (5, 6):
        found = engine.logits(tokens, np.array([length, length + 3]), rows)
        expected = model(torch.as_tensor(tokens[:1, :length])).logits[0, -1]
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        engine.drop()
        plain = engine.logits(tokens, np.array([6, 9]), rows)
        torch.testing.assert_close(plain[0], base(torch.as_tensor(tokens[:1, :6])).logits[0, -1], atol=1e-4, rtol=1e-4)
    assert (plain - found).abs().max() > 1e-2


@torch.no_grad()
def test_engine_in_bfloat16_stays_near_the_full_forward():
    torch.manual_seed(0)
    model = MODELS["llama"]().to(torch.bfloat16)
    engine = SlotEngine(model, 4, CONTEXT)
    tokens, rows = np.random.default_rng(0).integers(3, VOCAB, (4, CONTEXT)), np.arange(4)
    full = model(torch.as_tensor(tokens)).logits.float().log_softmax(-1)
    engine.logits(tokens, np.full(4, 10), rows)
    for length in range(11, CONTEXT + 1):
        found = engine.logits(tokens, np.full(4, length), rows).float().log_softmax(-1)
        assert (found - full[:, length - 1]).abs().max() < 0.05


def check_against(model: Any, engine: SlotEngine, tokens: np.ndarray, length: int) -> None:
    found = engine.logits(tokens, np.full(len(tokens), length), np.arange(len(tokens)))
    expected = model(torch.as_tensor(tokens[:, :length])).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_adapters_and_vocabularies_that_come_later_are_seen():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = MODELS["llama"]()
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 12))
    check_against(model, SlotEngine(model, 2, 12), tokens, 5)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    engine = SlotEngine(adapted.get_base_model(), 2, 12)
    check_against(adapted, engine, tokens, 5)
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    adapted.set_adapter("other")
    engine.drop()
    check_against(adapted, engine, tokens, 6)
    model = MODELS["llama"]()
    engine = SlotEngine(model, 2, 12)
    model.resize_token_embeddings(VOCAB + 5)
    engine.drop()
    check_against(model, engine, tokens, 5)


@torch.no_grad()
def test_a_new_data_type_is_taken_over_by_drop():
    model = MODELS["llama"]()
    engine = SlotEngine(model, 2, 12)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 12))
    check_against(model, engine, tokens, 5)
    model.double()
    with pytest.raises(ConfigError, match=r"data type has become torch.float64; call `drop\(\)` first"):
        engine.logits(tokens, np.full(2, 6), np.arange(2))
    engine.drop()
    check_against(model, engine, tokens, 6)


@torch.no_grad()
def test_a_forward_pass_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    model = MODELS["llama"]()
    engine = SlotEngine(model, 3, 12)
    tokens = np.tile(np.random.default_rng(0).integers(3, VOCAB, 12), (3, 1))
    forward = engine._forward

    def interrupted(blocks: Any) -> Any:
        raise KeyboardInterrupt

    for length in (6, 7):
        monkeypatch.setattr(engine, "_forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.logits(tokens, np.full(3, length), np.arange(3))
        monkeypatch.setattr(engine, "_forward", forward)
        check_against(model, engine, tokens, length)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_nan_in_the_cache_does_not_outlive_drop(name: str):
    model = MODELS[name]()
    engine = SlotEngine(model, 2, 30)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (2, 30))
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    for p in model.parameters():
        p.fill_(torch.nan)
    engine.drop()
    assert engine.logits(tokens, np.full(2, 25), np.arange(2)).isnan().all()
    model.load_state_dict(kept)
    engine.drop()
    for length in (4, 5):
        check_against(model, engine, tokens, length)


def drive(model: Any, engine: SlotEngine) -> None:
    """Two slots at different lengths, one of which starts again: what single rows say."""
    rows = np.random.default_rng(0).integers(3, VOCAB, (2, 20))
    for length, other in ((12, 5), (13, 6), (14, 3), (15, 4)):
        rows[1, other - 1] += length > 13
        found = engine.logits(rows, np.array([length, other]), np.arange(2))
        for row, size in enumerate((length, other)):
            expected = model(torch.as_tensor(rows[row : row + 1, :size])).logits[0, -1]
            torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_soft_capped_logits_are_the_models_own():
    model = soft_capping_model()
    engine = SlotEngine(model, 2, 20)
    drive(model, engine)
    assert engine.decoding == "cached"
    assert engine.logits(np.full((1, 1), 5), np.ones(1, np.int64), np.zeros(1, np.int64)).abs().max() <= 0.1


@torch.no_grad()
def test_a_model_that_no_cache_suits_reads_whole_sequences_and_says_so(caplog: pytest.LogCaptureFixture):
    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)
    model = BloomForCausalLM(config).eval()
    engine = SlotEngine(model, 2, 20)
    assert engine.decoding == "anew"
    assert (
        "BloomForCausalLM is decoded without a cache, every step from the first token on, which is slow" in caplog.text
    )
    drive(model, engine)
    engine.fork(np.array([0]), np.array([1]))
    found = engine.step(np.array([7, 7]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("method", ["anew", "cached"])
@torch.no_grad()
def test_models_whose_logits_would_come_out_wrong_are_refused(monkeypatch: pytest.MonkeyPatch, method: str):
    model = MODELS["gpt2"]()
    own = model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        output = own(*arguments, **options)
        if method == "cached":
            raise IndexError("nothing there")
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(model, "forward", forward)
    reason = "its logits come out otherwise" if method == "anew" else "cannot be decoded: IndexError: nothing there"
    with pytest.raises(ConfigError, match=f"decoding of GPT2LMHeadModel does not give the model's own.*{reason}"):
        SlotEngine(model, 1, 8)


def test_a_model_in_training_mode_is_refused():
    model = MODELS["gpt2"]().train()
    with pytest.raises(ConfigError, match=r"training mode, where dropout is at work: call `model.eval\(\)`"):
        SlotEngine(model, 1, 8)


def test_models_of_one_structure_are_tried_once(monkeypatch: pytest.MonkeyPatch):
    SlotEngine(MODELS["gpt2"](), 1, 8)
    calls = []
    monkeypatch.setattr(slots, "_gives_its_own", lambda *arguments: calls.append(arguments) or True)
    SlotEngine(MODELS["gpt2"](), 1, 8)
    assert calls == []
    SlotEngine(MODELS["gpt2"]().double(), 1, 8)
    assert len(calls) == 1


@torch.no_grad()
def test_a_trial_on_weights_that_are_not_finite_proves_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "_tried", {})
    model = MODELS["gpt2"]()
    for p in model.parameters():
        p.fill_(torch.nan)
    SlotEngine(model, 1, 8)
    assert models._tried == {}


@pytest.mark.parametrize(
    ("tokens", "lengths", "rows", "message"),
    [
        (np.zeros((2, 5), np.int64), [5, 5], [0, 0], "each slot once"),
        (np.zeros((1, 5), np.int64), [6], [0], "must lie in 1…5, got 6"),
        (np.zeros((1, 5)), [5], [0], "must hold integers, got float64"),
        (np.zeros((2, 5), np.int64), [5], [0], "got 2 rows of tokens and 1 lengths"),
    ],
)
def test_rows_that_cannot_be_are_refused(tokens: np.ndarray, lengths: list[int], rows: list[int], message: str):
    engine = SlotEngine(MODELS["llama"](), 3, 20)
    with pytest.raises(ShapeError, match=message):
        engine.logits(tokens, np.array(lengths), np.array(rows))


def test_an_engine_without_slots_is_refused():
    with pytest.raises(ConfigError, match="`num_slots` and `max_length` must be ≥ 1, got 0 and 8"):
        SlotEngine(MODELS["llama"](), 0, 8)


@pytest.mark.parametrize(
    ("lengths", "rows", "message"),
    [([21], [0], "must lie in 1…20, got 21"), ([0], [0], "must lie in"), ([], [], "ask for at least one")],
)
def test_engine_bad_lengths_are_refused(lengths: list[int], rows: list[int], message: str):
    engine = SlotEngine(MODELS["llama"](), 1, 20)
    with pytest.raises(ShapeError, match=message):
        engine.logits(np.zeros((len(rows), 30), np.int64), np.array(lengths), np.array(rows, np.int64))


def test_engine_longer_than_the_context_is_refused():
    with pytest.raises(ConfigError, match="need 41 tokens, the model's context holds 40"):
        SlotEngine(MODELS["llama"](), 1, 41)
