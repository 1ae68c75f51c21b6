"""Training from every kind of label: mixtures, ties, LoRA, accumulation, early stopping, and resuming all of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_models.labels import (
    BestOf,
    Comparison,
    Label,
    Ranking,
    Rating,
    StepLabels,
    ranking_from_best,
)
from reward_models.losses import bradley_terry, davidson, plackett_luce, rated_pairs, squared_error, step_bce
from reward_models.sequence import SequenceRewardModel
from reward_models.simulation import Rater, SimulatedRaters, WordGold
from reward_models.simulation.bag_of_words import bag_of_words
from reward_models.training import LabelBatches, RewardModelConfig, evaluate, measure, train
from tests.reward_models.tiny import tiny_bert, tiny_llama, word_tokenizer
from textenv.errors import ConfigError, DataError, MissingDependencyError
from textenv.runs import Run

GOLD = WordGold.random(np.random.default_rng(0), words=20, std=1.0)
WORDS = list(GOLD.weights)
CONFIG = RewardModelConfig(
    batch_size=16, learning_rate=0.02, min_gap=0.0, freeze_embeddings=False, dtype="float32", checkpoint_every=2
)


def mixture(count: int = 24, seed: int = 0) -> list[Label]:
    raters = SimulatedRaters(GOLD, [Rater(tie_threshold=0.5, noise=0.5)], seed=seed)
    flat = GOLD.sample(np.random.default_rng(seed), 6 * count)
    prompts = [f"p{i}" for i in range(count)]
    lists = [flat[3 * i : 3 * i + 3] for i in range(count)]
    labels: list[Label] = [*raters.rate(prompts, flat[:count]), *raters.compare(prompts, flat[::6], flat[1::6])]
    labels += [*raters.rank(prompts, lists), *raters.pick_best(prompts, lists), *raters.label_steps(prompts, lists)]
    return labels


def bert() -> SequenceRewardModel:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    return SequenceRewardModel.from_trunk(tiny_bert(tokenizer), tokenizer)


def weights(rm: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in rm.model.named_parameters()}


def rank_of(label: Label) -> torch.Tensor:
    ranking = ranking_from_best(label) if isinstance(label, BestOf) else label
    assert isinstance(ranking, Ranking)
    return torch.tensor([[rank or 0 for rank in ranking.dense_ranks]])


def test_batch_loss_of_a_mixture_counts_every_label_alike() -> None:
    labels: list[Label] = [
        Rating("p", WORDS[0], 1.0),
        Rating("p", WORDS[1], 3.0),
        Comparison("p", WORDS[2], WORDS[3]),
        Comparison("p", WORDS[4], WORDS[5], tie=True),
        Ranking("p", (WORDS[6], WORDS[7], WORDS[8]), (2, 1, None)),
        BestOf("p", (WORDS[9], WORDS[10]), 1),
        StepLabels("p", (WORDS[11] + " ", WORDS[12]), (1.0, None)),
    ]
    batches = LabelBatches(bag_of_words(WORDS), labels, CONFIG)
    order = np.arange(7)
    assert len(batches.rows(order)) == 13
    s = torch.randn(13, generator=torch.Generator().manual_seed(0))
    loss, accuracy = batches.loss(s, order)
    tie = batches.learned.tie
    assert tie is not None
    parts = [
        2 * rated_pairs(s[:2], torch.tensor([1.0, 3.0])),
        2 * davidson(s[[2, 4]], s[[3, 5]], torch.tensor([False, True]), tie),
        plackett_luce(s[None, 6:9], rank_of(labels[4])) + plackett_luce(s[None, 9:11], rank_of(labels[5])),
        step_bce(s[None, 11:], torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])),
    ]
    assert loss.item() == pytest.approx(sum(float(part.detach()) for part in parts) / 7, rel=1e-5)
    assert 0 <= accuracy <= 1


def test_batch_passes_a_text_through_the_model_once() -> None:
    labels = [Comparison("p", "a", "b"), Comparison("p", "a", "c"), Comparison("q", "a", "b")]
    batches = LabelBatches(bag_of_words("abc"), labels, CONFIG)
    assert len(batches.rows(np.arange(3))) == 5
    loss, _ = batches.loss(torch.tensor([1.0, 0.0, 2.0, 3.0, 4.0]), np.arange(3))
    expected = bradley_terry(torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 4.0]))
    assert loss.item() == pytest.approx(expected.item())


def test_regression_beside_other_kinds_learns_its_own_units() -> None:
    ratings: list[Label] = [Rating("p", "a", 10.0), Rating("p", "b", 14.0)]
    config = replace(CONFIG, ratings_loss="regression")
    alone = LabelBatches(bag_of_words("abc"), ratings, config)
    scores = torch.tensor([0.5, 1.0])
    expected = squared_error(scores, torch.tensor([10.0, 14.0]))
    assert alone.loss(scores, np.arange(2))[0].item() == pytest.approx(expected.item())
    beside = LabelBatches(bag_of_words("abc"), [*ratings, Comparison("p", "a", "b")], config)
    expected = squared_error(12 + 2 * scores, torch.tensor([10.0, 14.0]))
    assert beside.loss(scores, np.arange(2))[0].item() == pytest.approx(expected.item())
    assert beside.learned.figures() == pytest.approx({"rating_offset": 12.0, "rating_gain": 2.0})


def test_centering_pulls_the_scores_towards_zero() -> None:
    labels = [Comparison("p", "a", "b")]
    plain, centred = (LabelBatches(bag_of_words("ab"), labels, replace(CONFIG, centering=c)) for c in (0.0, 0.1))
    scores = torch.tensor([3.0, 1.0])
    difference = centred.loss(scores, np.arange(1))[0] - plain.loss(scores, np.arange(1))[0]
    assert difference.item() == pytest.approx(0.1 * 5.0)


def test_ties_left_out_teach_nothing() -> None:
    labels = [Comparison("p", "a", "b", tie=True)]
    batches = LabelBatches(bag_of_words("ab"), labels, replace(CONFIG, ties="leave_out"))
    assert batches.learned.tie is None
    assert batches.loss(torch.tensor([3.0, 1.0]), np.arange(1))[0].item() == 0.0


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([Rating("p", "a", 1.0)], r"needs whole-number ratings on one `scale`.*got the scales \['None'\]"),
        ([Rating("p", "a", 1.0, scale=(1, 5)), Rating("p", "a", 1.0, scale=(1, 7))], r"\(1, 5\)', '\(1, 7\)"),
        ([Rating("p", "a", 1.5, scale=(1, 5), count=2)], r"a mean of several is no category"),
    ],
    ids=["no scale", "two scales", "a mean"],
)
def test_ordinal_without_one_scale_is_an_error(labels: list[Label], match: str) -> None:
    with pytest.raises(DataError, match=match):
        LabelBatches(bag_of_words("ab"), labels, replace(CONFIG, ratings_loss="ordinal"))


def test_gaussian_with_one_output_says_what_is_needed() -> None:
    with pytest.raises(DataError, match="needs a model with two outputs"):
        train(bag_of_words("ab"), [Rating("p", "a", 1.0)], replace(CONFIG, ratings_loss="gaussian"))


def test_micro_batches_add_up_to_the_batch() -> None:
    labels = mixture()[24:48]  # comparisons
    whole, halves = bag_of_words(WORDS), bag_of_words(WORDS)
    config = replace(CONFIG, epochs=1, warmup_steps=0.0, weight_decay=0.0, ties="leave_out")
    labels = [x for x in labels if isinstance(x, Comparison) and not x.tie][:16]
    train(whole, labels, replace(config, batch_size=16))
    summary = train(halves, labels, replace(config, batch_size=16, micro_batch_size=8))
    assert summary["steps"] == 1
    assert torch.allclose(whole.model.words.weight, halves.model.words.weight, atol=1e-6)


def test_lora_trains_an_adapter_and_leaves_a_plain_model(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tokenizer = word_tokenizer(WORDS, encoder=False)
    rm = SequenceRewardModel.from_trunk(tiny_llama(tokenizer), tokenizer)
    before, names = weights(rm), [name for name, _ in rm.model.named_parameters()]
    state = torch.get_rng_state()
    train(rm, mixture(), replace(CONFIG, lora_rank=4, learning_rate=0.01))
    assert torch.equal(torch.get_rng_state(), state)
    after = weights(rm)
    assert list(after) == names
    moved = {name for name in names if not torch.equal(before[name], after[name])}
    assert "score.weight" in moved
    assert any("q_proj" in name for name in moved)
    assert not any("embed_tokens" in name or "norm" in name for name in moved)
    rm.save_pretrained(tmp_path)
    again = SequenceRewardModel.from_pretrained(tmp_path)
    texts = ["p"] * 20, WORDS
    assert np.abs(again.score(*texts) - rm.score(*texts)).max() < 1e-5


def test_lora_without_peft_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "textenv\[lora\]"'):
        train(bert(), mixture(), replace(CONFIG, lora_rank=4))


def test_early_stop_keeps_the_weights_of_the_smallest_held_out_loss() -> None:
    labels, held_out = mixture(8, seed=1), mixture(8, seed=2)
    config = replace(CONFIG, epochs=200, learning_rate=0.3, eval_every=2, patience=3)
    seen: dict[int, float] = {}

    def watch(step: int, figures: Mapping[str, float]) -> None:
        if "eval/loss" in figures:
            seen[step] = figures["eval/loss"]

    rm = bag_of_words(WORDS)
    summary = train(rm, labels, config, validation=held_out, callback=watch)
    assert summary["held_out_loss"] == min(seen.values()) == seen[int(summary["best_step"])]
    assert summary["steps"] == summary["best_step"] + 2 * 3 < 200 * 3
    # The kept weights are those of that step.
    shorter = bag_of_words(WORDS)
    with pytest.raises(Stop):
        train(shorter, labels, config, validation=held_out, callback=stop_after(int(summary["best_step"])))
    assert torch.equal(shorter.model.words.weight, rm.model.words.weight)


class Stop(Exception):
    """Stands for a kill."""


def stop_after(step: int) -> Any:
    def callback(done: int, figures: Mapping[str, float]) -> None:
        if done == step:
            raise Stop

    return callback


@pytest.mark.parametrize("lora_rank", [0, 2], ids=["full", "LoRA"])
def test_resumed_with_everything_on_equals_uninterrupted(lora_rank: int, tmp_path: Path) -> None:
    labels, held_out = mixture(), mixture(8, seed=2)
    config = replace(
        CONFIG, epochs=3, micro_batch_size=8, eval_every=3, patience=2, learning_rate=0.05, lora_rank=lora_rank
    )
    whole = bert()
    summary = train(whole, labels, config, validation=held_out)
    run = Run(tmp_path / "run", tensorboard=False)
    with pytest.raises(Stop):
        train(bert(), labels, config, validation=held_out, run=run, callback=stop_after(7))
    resumed = bert()
    again = train(resumed, labels, config, validation=held_out, run=run)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    same = ("steps", "best_step", "held_out_loss", "learned_tie", "accuracy")
    assert {name: again[name] for name in same} == {name: summary[name] for name in same}
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert any("eval/loss" in record for record in records)


def test_evaluate_a_mixture_judges_each_kind() -> None:
    labels: list[Label] = [
        Comparison("p", "bb", "a"),
        Comparison("p", "a", "b", tie=True),
        Ranking("p", ("a", "bbb", "cc"), (3, 2, 1)),
        BestOf("p", ("aa", "bb", "c"), 0),
        StepLabels("p", ("a", "b"), (1.0, 0.0)),
        Rating("p", "a", 1.0),
        Rating("p", "bb", 2.0),
    ]

    class Length:
        def score(self, prompts: list[str], responses: list[str]) -> list[float]:
            return [float(len(response)) for response in responses]

    found = evaluate(Length(), labels)
    kinds = {"comparisons": 1.0, "rankings": 2 / 3, "best_of": 0.5, "steps": 0.5, "ratings": 1.0}
    expected = {f"accuracy_{kind}": value for kind, value in kinds.items()}
    expected |= {"accuracy": (1 + 2 / 3 + 0.5 + 0.5 + 2) / 6, "accuracy_gap_0_5": 1.0}
    assert found == pytest.approx(expected)
    with pytest.raises(DataError, match="are all ties"):
        evaluate(Length(), [labels[1]])
    with pytest.raises(DataError, match="there are no labels to evaluate on"):
        evaluate(Length(), [])


def test_measure_gives_an_interval_around_the_share() -> None:
    labels = [Comparison(f"p{i}", "bb" if i % 4 else "b", "c" if i % 4 else "cc") for i in range(100)]
    found = measure(lambda_model(len), labels, np.random.default_rng(0))["accuracy"]
    assert (found.value, found.n) == (0.75, 100)
    assert 0.6 < found.low < 0.7 < 0.8 < found.high < 0.9


def test_measure_resamples_prompts_whatever_kinds_of_labels_they_have() -> None:
    # Twenty prompts, each judged ten times alike: twenty things are known, not two hundred.
    labels: list[Any] = [Comparison(f"p{i}", "bb" if i % 4 else "b", "c" if i % 4 else "cc") for i in range(20)] * 10
    found = measure(lambda_model(len), labels, np.random.default_rng(0))["accuracy"]
    assert found.clusters == 20
    assert found.low < 0.55
    mixed = measure(
        lambda_model(len), [*labels, *(BestOf(f"p{i}", ("aa", "a"), 0) for i in range(20))], np.random.default_rng(0)
    )
    assert mixed["accuracy"].n == 220
    assert mixed["accuracy"].low < mixed["accuracy"].value < mixed["accuracy"].high


def test_measure_knows_that_what_one_rater_says_belongs_together() -> None:
    def labels(raters: int, named: bool = True) -> list[Any]:
        # One rater in two finds the shorter answer better, whatever the prompt.
        return [
            Comparison(
                f"p{i}", *(("bb", "c") if i % raters % 2 else ("c", "bb")), rater=f"r{i % raters}" if named else None
            )
            for i in range(240)
        ]

    def measured(labels: list[Any]) -> Any:
        return measure(lambda_model(len), labels, np.random.default_rng(0))["accuracy"]

    among, alone = measured(labels(6)), measured(labels(6, named=False))
    assert among.value == alone.value == 0.5
    assert among.high - among.low > 5 * (alone.high - alone.low)
    assert among.clusters < 8


def test_measure_of_four_right_labels_is_not_sure() -> None:
    found = measure(lambda_model(len), [Comparison(f"p{i}", "bb", "c") for i in range(4)], np.random.default_rng(0))
    assert found["accuracy"][:3] == pytest.approx((1, 0.05**0.25, 1))


def lambda_model(judge: Any) -> Any:
    class Model:
        def score(self, prompts: list[str], responses: list[str]) -> list[float]:
            return [float(judge(response)) for response in responses]

    return Model()


@pytest.mark.parametrize(
    ("field", "value"),
    [("micro_batch_size", 0), ("patience", 0), ("eval_every", -1), ("lora_rank", -1), ("centering", -0.1)],
)
def test_config_unusable_value_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{field}`"):
        RewardModelConfig(**{field: value})


def test_comparisons_whose_tie_is_numpys_count_like_others() -> None:
    labels: list[Label] = [Comparison("p", "a", "b", tie=np.False_), Comparison("p", "b", "a", tie=np.True_)]  # type: ignore[arg-type]
    assert evaluate(bag_of_words("ab"), labels).keys() == {"accuracy"}
    with pytest.raises(DataError, match="are all ties"):
        evaluate(bag_of_words("ab"), labels[1:])
