from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from agents.lm.batches import (
    Example,
    PackedBatch,
    check_packing,
    collate,
    own_lengths,
    owners,
    real_tokens,
    token_losses,
    token_weights,
)
from agents.lm.config import LMConfig
from agents.lm.models import PRESETS, ModelConfig, build_model
from agents.lm.noise import noisy_embeddings
from agents.lm.throughput import flops_per_token, utilization
from textenv.errors import ConfigError, DataError

KINDS = ("llama", "gpt2")


def examples(count: int = 9, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = rng.integers(3, 250, size=int(rng.integers(4, 20)))
        prompt = int(rng.integers(1, len(tokens) - 1))
        mask = rng.random(len(tokens) - prompt) < 0.7
        mask[-1] = True
        found.append(Example(tokens, prompt, mask))
    return found


def tiny(kind: str, tokenizer: Any) -> Any:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48, "context": 48}
    return build_model(ModelConfig(kind=kind, **sizes), tokenizer, 0).eval()  # type: ignore[arg-type]  # kind comes as a parameter


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_unpacked_give_the_same_losses_on_the_same_documents(kind: str, tokenizer):
    model, some = tiny(kind, tokenizer), examples()
    packed = PackedBatch.from_examples(some, 40)
    assert len(packed.tokens) < len(some)
    padded = collate(some)
    together, apart = token_losses(model, packed), token_losses(model, padded)
    assert len(together) == len(apart) == len(owners(packed)) == len(owners(padded))
    torch.testing.assert_close(together.mean(), apart.mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.sort().values, apart.sort().values, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (together * token_weights(packed, "example")[0]).sum(), (apart * token_weights(padded, "example")[0]).sum()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_unpacked_give_the_same_gradients(kind: str, tokenizer):
    some, gradients = examples(), []
    for batch in (PackedBatch.from_examples(some, 40), collate(some)):
        model = tiny(kind, tokenizer)
        token_losses(model, batch).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(gradients[1].norm()) > 0.1
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=0)


def test_nothing_outside_a_sequence_moves_its_losses(tokenizer):
    model = tiny("llama", tokenizer)
    first, second, other = examples(3)
    with_second = PackedBatch.from_examples([first, second], 48)
    with_other = PackedBatch.from_examples([first, other], 48)

    def own(batch: PackedBatch) -> list[float]:
        rows = {tuple(e.tokens[e.prompt_length :][e.loss_mask].tolist()): e for e in (first,)}
        losses = token_losses(model, batch)
        targets = batch.tokens[batch.loss_mask]
        (wanted,) = rows
        for start in range(len(targets) - len(wanted) + 1):
            if tuple(targets[start : start + len(wanted)].tolist()) == wanted:
                return losses[start : start + len(wanted)].tolist()
        raise AssertionError("the first example is not in the batch")

    assert own(with_second) == pytest.approx(own(with_other), abs=1e-5)


def test_losses_are_those_of_transformers_with_labels(tokenizer):
    model, some = tiny("llama", tokenizer), examples()
    width = max(len(e.tokens) for e in some)
    tokens, labels = np.zeros((len(some), width), np.int64), np.full((len(some), width), -100)
    for row, example in enumerate(some):
        assert example.loss_mask is not None
        tokens[row, : len(example.tokens)] = example.tokens
        counted = np.concatenate([np.zeros(example.prompt_length, bool), example.loss_mask])
        labels[row, : len(example.tokens)][counted] = example.tokens[counted]
    theirs = model(input_ids=torch.tensor(tokens), labels=torch.tensor(labels)).loss
    torch.testing.assert_close(token_losses(model, collate(some)).mean(), theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        token_losses(model, PackedBatch.from_examples(some, 48)).mean(), theirs, atol=1e-5, rtol=0
    )


def test_an_example_longer_than_a_row_is_refused_not_cut():
    with pytest.raises(DataError, match="an example has 30 tokens, more than the 16 of a packed row"):
        PackedBatch.from_examples([Example(np.arange(30), 1)], 16)


def test_weights_by_token_and_by_example_by_hand():
    some = [Example(np.arange(4), 1), Example(np.arange(3), 2)]  # 3 counted tokens, 1 counted token
    for batch in (collate(some), PackedBatch.from_examples(some, 16)):
        assert token_weights(batch, "token")[0].tolist() == [1, 1, 1, 1]
        weights, total = token_weights(batch, "example")
        assert sorted(weights.tolist()) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
        assert total == 2
        assert real_tokens(batch) == 7
        assert sorted(owners(batch).tolist()) == [0, 0, 0, 1]


def test_own_lengths_know_their_sequence():
    batch = PackedBatch.from_examples([Example(np.arange(4), 1), Example(np.arange(3), 2)], 8)
    assert own_lengths(batch).tolist() == [[4, 4, 4, 4, 3, 3, 3, 1]]


@pytest.mark.parametrize("packed", [False, True])
def test_neftune_noise_is_bounded_repeatable_and_gone_afterwards(packed: bool, tokenizer):
    model = tiny("llama", tokenizer)
    some = [Example(np.arange(3, 13), 1), Example(np.arange(3, 8), 1)]
    batch = PackedBatch.from_examples(some, 16) if packed else collate(some)
    embed = model.get_input_embeddings()
    plain = embed(batch.tokens)

    def noise(step: int) -> torch.Tensor:
        with noisy_embeddings(model, batch, 5.0, (0, step, 0)):
            return embed(batch.tokens) - plain

    drawn = noise(1)
    bound = 5.0 / torch.sqrt(own_lengths(batch)[..., None].float() * 32)
    assert (drawn.abs() <= bound + 1e-6).all()
    assert (drawn.abs().amax(-1) > 0.8 * bound[..., 0]).float().mean() > 0.8
    assert torch.equal(drawn, noise(1))
    assert not torch.equal(drawn, noise(2))
    assert torch.equal(embed(batch.tokens), plain)
    with noisy_embeddings(model, batch, 0.0, (0, 1, 0)):
        assert torch.equal(embed(batch.tokens), plain)


def test_a_model_that_sees_its_neighbours_is_refused(tokenizer, monkeypatch):
    model = tiny("llama", tokenizer)
    check_packing(model)
    original = model.base_model.forward

    def forward(input_ids: torch.Tensor, position_ids: Any = None, **rest: Any) -> Any:
        return original(input_ids=input_ids, **rest)  # knows no positions, so no borders

    monkeypatch.setattr(model.base_model, "forward", forward)
    with pytest.raises(ConfigError, match="lets sequences that are packed into one row see each other"):
        check_packing(model)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_of_their_name(name: str):
    class Tokenizer:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

        def __len__(self) -> int:
            return 8192

    with torch.device("meta"):
        model = build_model(ModelConfig(preset=name), Tokenizer(), 0)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(float(name.split("-")[1].removesuffix("m")), rel=0.15)


def test_flops_are_six_per_multiplied_weight_and_the_attention():
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "intermediate_size": 40,
        "vocab_size": 100,
    }

    class Tokenizer:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

        def __len__(self) -> int:
            return 100

    llama = build_model(ModelConfig(**sizes), Tokenizer(), 0)
    matrices = 3 * (4 * 16 * 16 + 3 * 16 * 40) + 16 * 100
    assert flops_per_token(llama, 64) == 6 * matrices + 12 * 3 * 16 * 64
    gpt2 = build_model(ModelConfig(kind="gpt2", **sizes), Tokenizer(), 0)
    matrices = 3 * (4 * 16 * 16 + 2 * 16 * 40) + 16 * 100
    assert flops_per_token(gpt2, 64) == 6 * matrices + 12 * 3 * 16 * 64
    assert 0 < utilization(llama, 64, 1000.0, torch.float32) < 1


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [("wsd", 0, 0.5), ("wsd", 2, 1.0), ("wsd", 79, 1.0), ("wsd", 89, 0.55), ("wsd", 99, 0.1), ("constant", 99, 1.0)],
)
def test_schedules_by_hand(schedule, step, share):
    config = LMConfig(steps=100, warmup_steps=2, lr_schedule=schedule, decay_fraction=0.2, learning_rate=2.0)
    assert config.learning_rate_at(step, config.steps) == pytest.approx(2.0 * share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"micro_batch_size": 0}, "`micro_batch_size` must be ≥ 1, or None, got 0"),
        ({"decay_fraction": 0.0}, r"`decay_fraction` must lie in \(0, 1\], got 0"),
        ({"neftune_alpha": -1.0}, "`neftune_alpha` must be ≥ 0"),
        ({"lr_schedule": "step"}, "`lr_schedule` must be one of 'linear', 'cosine', 'wsd', 'constant', got 'step'"),
        ({"loss_reduction": "sum"}, "`loss_reduction` must be 'token' or 'example'"),
    ],
)
def test_training_config_refuses_nonsense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LMConfig(**arguments)


def test_model_config_refuses_nonsense():
    with pytest.raises(ConfigError, match="there is no preset 'gpt5'; there are: llama-1m"):
        ModelConfig(preset="gpt5")
    with pytest.raises(ConfigError, match="`kind` must be 'llama' or 'gpt2'"):
        ModelConfig(kind="rnn")  # type: ignore[arg-type]  # what is refused
    assert math.isclose(ModelConfig(preset="gpt2-15m").intermediate_size, 4 * 384)
