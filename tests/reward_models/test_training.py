from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_models.labels import Comparison, Label, Rating, ratings_from_texts
from reward_models.losses import bradley_terry, rated_pairs
from reward_models.sequence import SequenceRewardModel
from reward_models.training import LabelBatches, RewardModelConfig, evaluate, train
from tests.reward_models.tiny import builtin_tokenizer, tiny_bert, tiny_llama
from textenv.datasets import builtin_ratings
from textenv.errors import CheckpointError, ConfigError, DataError, RunCheckError
from textenv.mixed_precision import fast_bf16
from textenv.runs import Run

LABELS = ratings_from_texts(builtin_ratings(300, split="train"))
MORE_LABELS = ratings_from_texts(builtin_ratings(800, split="train"))
CONFIG = RewardModelConfig(batch_size=32, learning_rate=1e-3, dtype="float32", checkpoint_every=2)


def make(kind: str = "encoder", hidden: int = 32) -> SequenceRewardModel:
    tokenizer = builtin_tokenizer(encoder=kind == "encoder")
    build = tiny_bert if kind == "encoder" else tiny_llama
    return SequenceRewardModel.from_trunk(build(tokenizer, hidden=hidden), tokenizer)


def comparisons(ratings: Sequence[Rating]) -> list[Comparison]:
    """Neighbours of the list compared with each other, as if answers to one prompt."""
    made = []
    for one, other in zip(ratings[::2], ratings[1::2], strict=False):
        better, worse = (one, other) if one.score > other.score else (other, one)
        made.append(Comparison("Rate:", better.response, worse.response))
    return made


def weights(rm: SequenceRewardModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in rm.model.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "labels", "bar"),
    # A pair of texts says less than their two ratings.
    [
        pytest.param("encoder", LABELS, 0.85, id="encoder-ratings"),
        pytest.param("causal", LABELS, 0.85, id="causal-ratings", marks=pytest.mark.slow),
        pytest.param("encoder", comparisons(MORE_LABELS), 0.75, id="encoder-comparisons", marks=pytest.mark.slow),
        pytest.param("causal", comparisons(MORE_LABELS), 0.75, id="causal-comparisons"),
    ],
)
def test_train_learns_the_builtin_ratings(kind: str, labels: Sequence[Label], bar: float) -> None:
    rm = make(kind)
    test = ratings_from_texts(builtin_ratings(300, 1))
    before = evaluate(rm, test)["accuracy_gap_0_5"]
    config = replace(CONFIG, epochs=8, batch_size=16, learning_rate=4e-3, freeze_embeddings=False)
    summary = train(rm, labels, config, validation=test)
    assert before < 0.7
    assert summary["accuracy_gap_0_5"] > bar
    assert summary["loss"] < 0.45
    assert summary["labels"] == len(labels)


@pytest.mark.parametrize("freeze", [True, False])
def test_train_one_step_moves_every_trainable_weight(freeze: bool) -> None:
    rm = make()
    before = weights(rm)
    train(rm, LABELS[:32], replace(CONFIG, warmup_steps=0.0, freeze_embeddings=freeze, weight_decay=0.1))
    still = {name for name, value in weights(rm).items() if torch.equal(value, before[name])}
    # The biases of the keys and of the head have no gradient but rounding: neither changes a difference of scores.
    chance = {"classifier.bias", "bert.encoder.layer.0.attention.self.key.bias"}
    assert still - chance == ({"bert.embeddings.word_embeddings.weight"} if freeze else set())
    assert all(value.requires_grad and value.grad is None for value in rm.model.parameters())


def test_train_same_seed_same_weights_other_seed_other_weights() -> None:
    results = []
    for seed in (0, 0, 1):
        rm = make()
        train(rm, LABELS, replace(CONFIG, seed=seed))
        results.append(weights(rm))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert any(not torch.equal(value, results[2][name]) for name, value in results[0].items())


def test_train_in_bfloat16_stays_close_to_float32() -> None:
    scores = []
    for dtype in ("float32", "bfloat16"):
        rm = make()
        train(rm, LABELS, replace(CONFIG, dtype=dtype))
        assert next(rm.model.parameters()).dtype == torch.float32
        scores.append(rm.score([x.prompt for x in LABELS], [x.response for x in LABELS]))
    assert np.corrcoef(*scores)[0, 1] > 0.9


def test_train_drops_an_old_normalization() -> None:
    rm = make()
    rm.normalize([x.prompt for x in LABELS], [x.response for x in LABELS], policy="sft")
    train(rm, LABELS[:32], CONFIG)
    assert rm.normalization is None


def test_train_leaves_the_model_in_evaluation_mode_and_the_global_generator_alone() -> None:
    rm = make()
    state = torch.get_rng_state()
    train(rm, LABELS[:64], CONFIG)
    assert not rm.model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_train_writes_metrics_and_calls_back(tmp_path: Path) -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    run = Run(tmp_path / "run", tensorboard=False)
    summary = train(make(), LABELS, CONFIG, run=run, callback=lambda step, figures: seen.append((step, figures)))
    steps = math.ceil(len(LABELS) / 32)
    assert [step for step, _ in seen] == list(range(1, steps + 1))
    assert summary["steps"] == steps
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {record["stage"] for record in records} == {"reward"}
    assert records[-1]["step"] == steps
    assert {"train/loss", "train/accuracy", "train/learning_rate", "train/tokens_per_second"} <= set(records[-1])


class Stop(Exception):
    """Stands for a kill."""


def stop_after(step: int) -> Any:
    def callback(done: int, figures: Mapping[str, float]) -> None:
        if done == step:
            raise Stop

    return callback


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_train_resumed_equals_uninterrupted(kind: str, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=2)
    whole = make(kind)
    train(whole, LABELS, config)
    run = Run(tmp_path / "run", tensorboard=False)
    broken = make(kind)
    with pytest.raises(Stop):
        train(broken, LABELS, config, run=run, callback=stop_after(11))
    assert all(value.requires_grad for value in broken.model.parameters())
    resumed = make(kind)
    seen: list[int] = []
    train(resumed, LABELS, config, run=run, callback=lambda step, figures: seen.append(step))
    assert seen[0] == 11  # ten steps were in the newest checkpoint
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    steps = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert steps == sorted(set(steps))


def test_train_checkpoint_of_another_model_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", tensorboard=False)
    with pytest.raises(Stop):
        train(make(), LABELS, CONFIG, run=run, callback=stop_after(3))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        train(make(hidden=16), LABELS, CONFIG, run=run)


def test_train_loss_not_finite_stops_loudly() -> None:
    rm = make()
    with torch.no_grad():
        rm.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(RunCheckError, match=r"reward, update of step 0: .*lower `learning_rate`"):
        train(rm, LABELS, CONFIG)


def test_train_without_labels_or_with_something_else_is_an_error() -> None:
    with pytest.raises(DataError, match="there are no labels to learn from"):
        train(make(), [])
    with pytest.raises(DataError, match="expected label records such as `Rating` or `Comparison`, got str"):
        train(make(), ["good"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0.0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("warmup_steps", -1.0),
        ("label_smoothing", 0.5),
        ("min_gap", -0.1),
        ("weight_decay", -0.1),
        ("checkpoint_every", 0),
    ],
)
def test_config_unusable_value_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{field}`"):
        RewardModelConfig(**{field: value})


def test_learning_rate_rises_and_falls_to_the_end() -> None:
    config = RewardModelConfig(learning_rate=1.0, warmup_steps=0.2)
    rates = [config.learning_rate_at(step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_batches_hold_every_label_once_an_epoch_in_another_order() -> None:
    batches = LabelBatches(make(), LABELS, replace(CONFIG, epochs=2))
    per_epoch = batches.steps // 2
    epochs = [[batches.indices(step) for step in range(e * per_epoch, (e + 1) * per_epoch)] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(len(LABELS)))
    assert epochs[0][0].tolist() != epochs[1][0].tolist()
    # Asking for a step again, after others, gives the same batch.
    assert batches.indices(0).tolist() == epochs[0][0].tolist()


def test_batches_hold_texts_of_similar_length() -> None:
    rm = make()
    batches = LabelBatches(rm, LABELS, CONFIG)
    rows = [batches.rows(batches.indices(step)) for step in range(batches.steps)]
    padded = sum(len(batch) * max(map(len, batch)) for batch in rows)
    assert padded / sum(len(row) for batch in rows for row in batch) < 1.15


def test_batch_loss_of_ratings_is_that_of_all_pairs() -> None:
    batches = LabelBatches(make(), LABELS, replace(CONFIG, min_gap=1.0, label_smoothing=0.1))
    scores, indices = torch.randn(5, generator=torch.Generator().manual_seed(1)), np.array([7, 3, 11, 0, 20])
    ratings = torch.tensor([LABELS[i].score for i in indices])
    loss, accuracy = batches.loss(scores, indices)
    assert loss.item() == rated_pairs(scores, ratings, min_gap=1.0, label_smoothing=0.1).item()
    pairs = [(i, j) for i in range(5) for j in range(5) if ratings[i] - ratings[j] > 1.0]
    assert accuracy == pytest.approx(np.mean([bool(scores[i] > scores[j]) for i, j in pairs]))


def test_batch_loss_of_comparisons_uses_margin_and_weight() -> None:
    labels = [Comparison("a", "b", "c", margin=0.5, weight=2.0), Comparison("a", "d", "e", weight=1.0)]
    batches = LabelBatches(make(), labels, CONFIG)
    assert len(batches.rows(np.array([1, 0]))) == 4
    loss, accuracy = batches.loss(torch.tensor([1.0, 0.2, 0.0, 0.4]), np.array([0, 1]))
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.2, 0.4])
    expected = bradley_terry(chosen, rejected, margin=torch.tensor([0.5, 0.0]), weights=torch.tensor([2.0, 1.0]))
    assert loss.item() == expected.item()
    assert accuracy == 0.5


def test_evaluate_constant_model_is_at_chance() -> None:
    rm = make()
    with torch.no_grad():
        rm.model.classifier.weight.zero_()
    assert evaluate(rm, LABELS) == {"accuracy": 0.5, "accuracy_gap_0_5": 0.5}
    assert evaluate(rm, comparisons(LABELS)) == {"accuracy": 0.5}


def test_fast_bf16_knows_devices() -> None:
    assert isinstance(fast_bf16(torch.device("cpu")), bool)
    assert fast_bf16(torch.device("meta")) is False
