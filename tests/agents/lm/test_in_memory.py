from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.lm.finetuning import SFTConfig, prepare, sft
from agents.lm.in_memory import (
    Example,
    LMConfig,
    MixtureBatches,
    collate,
    evaluate_lm,
    token_losses,
    train_lm,
)
from agents.lm.pretraining import PretrainConfig, build_model, pretrain, text_examples
from tests.agents.conftest import TEXTS, TINY
from textenv.datasets import Demonstration
from textenv.errors import ConfigError, DataError, RunCheckError
from textenv.runs import Run

CONFIG = LMConfig(
    steps=12, batch_size=4, learning_rate=3e-3, warmup_steps=2, eval_every=6, checkpoint_every=5, dtype="float32"
)


def numbered(count: int, task: int) -> list[Example]:
    return [Example(np.array([1, task, 10 + i]), 1) for i in range(count)]


def test_mixture_realised_shares_are_the_asked_ones():
    tasks = {"a": numbered(7, 3), "b": numbered(5, 4), "c": numbered(90, 5)}
    batches = MixtureBatches(tasks, {"a": 5, "b": 3, "c": 2}, 8, 0)
    drawn = Counter(e.tokens[1] for step in range(160) for e in batches.batch(step))
    assert {task: drawn[task] / 1280 for task in (3, 4, 5)} == pytest.approx({3: 0.5, 4: 0.3, 5: 0.2}, abs=0.001)


def test_mixture_shows_every_example_once_per_epoch():
    batches = MixtureBatches({"a": numbered(32, 3)}, None, 4, 0)
    for pool in range(2):  # a pool of 16 batches of 4 holds two epochs of 32
        seen = Counter(e.tokens[2] for step in range(pool * 16, pool * 16 + 16) for e in batches.batch(step))
        assert len(seen) == 32
        assert set(seen.values()) == {2}


def test_mixture_batch_depends_on_seed_and_step_alone():
    tasks = {"a": numbered(30, 3), "b": numbered(50, 4)}
    straight, jumped, other = (MixtureBatches(tasks, None, 4, seed) for seed in (0, 0, 1))
    for step in range(40):
        straight.batch(step)
    ids = [[e.tokens.tolist() for e in m.batch(39)] for m in (straight, jumped, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("tasks", "weights", "error", "message"),
    [
        ({"a": []}, None, DataError, r"no examples for task\(s\): a"),
        ({"a": numbered(1, 3)}, {"b": 1.0}, ConfigError, "name exactly"),
        ({"a": numbered(1, 3)}, {"a": 0.0}, ConfigError, "must be positive"),
    ],
    ids=["empty task", "unknown task", "zero weight"],
)
def test_mixture_bad_input_is_refused(tasks, weights, error, message):
    with pytest.raises(error, match=message):
        MixtureBatches(tasks, weights, 4, 0)


def test_loss_equals_transformers_own_on_the_same_batch(tokenizer):
    model = build_model(TINY, tokenizer, 0)
    examples = text_examples(TEXTS[:3], tokenizer, TINY.context)
    ids = [e.tokens for e in examples]
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in ids])
    theirs = model(input_ids=tokens, labels=labels).loss
    ours = token_losses(model, collate(examples)).mean()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_evaluate_is_a_mean_over_tokens_whatever_the_batch_size(tokenizer):
    model = build_model(TINY, tokenizer, 0)
    examples = text_examples([*TEXTS, "a much longer text than all the others here"], tokenizer, TINY.context)
    assert evaluate_lm(model, examples, batch_size=2) == pytest.approx(evaluate_lm(model, examples), abs=1e-5)


def test_training_lowers_the_loss_and_moves_every_weight(tokenizer):
    model = build_model(TINY, tokenizer, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    examples = {"a": text_examples(TEXTS, tokenizer, TINY.context)}
    start = evaluate_lm(model, examples["a"])
    losses = train_lm(model, examples, examples, CONFIG)
    assert losses["a"] < start - 0.5
    assert all((p != before[name]).any() for name, p in model.named_parameters())


def test_interrupted_training_resumes_to_the_same_numbers(tokenizer, tmp_path: Path, monkeypatch):
    examples = {"a": text_examples(TEXTS, tokenizer, TINY.context)}

    def run_training(folder: Path, stop_at: int | None) -> tuple[dict[str, float], list[str]]:
        model = build_model(TINY, tokenizer, 0)
        run = Run(folder, tensorboard=False)
        if stop_at is not None:
            original = run.log

            def log(stage, step, metrics):
                original(stage, step, metrics)
                raise KeyboardInterrupt

            monkeypatch.setattr(run, "log", log)  # stands in for a person's Ctrl-C
            with pytest.raises(KeyboardInterrupt):
                train_lm(model, examples, examples, CONFIG, run=run)
            model, run = build_model(TINY, tokenizer, 0), Run(folder, tensorboard=False)
        losses = train_lm(model, examples, examples, CONFIG, run=run)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return losses, [line.split('"train/loss": ')[1].split(",")[0] for line in lines]

    whole = run_training(tmp_path / "whole", None)
    resumed = run_training(tmp_path / "resumed", 10)
    assert whole == resumed


def test_training_with_nan_weights_stops_and_names_the_step(tokenizer):
    model = build_model(TINY, tokenizer, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    examples = {"a": text_examples(TEXTS, tokenizer, TINY.context)}
    with pytest.raises(RunCheckError, match="pretrain, update of step 0: train/loss, the"):
        train_lm(model, examples, examples, CONFIG)


def test_demonstration_loss_is_on_the_answer_and_its_end_only(tokenizer):
    found = prepare(
        [Demonstration("movies", "the old", " film is good"), Demonstration("movies", "x" * 60, " y")],
        tokenizer,
        TINY.context,
    )
    ((example,),) = found.examples.values()
    answer = tokenizer.encode(" film is good", add_special_tokens=False)
    assert example.tokens[example.prompt_length :].tolist() == [*answer, tokenizer.eos_token_id]
    assert example.tokens[: example.prompt_length].tolist() == tokenizer.encode("the old")


def test_pretrain_then_sft_reports_each_task(tmp_path: Path):
    texts = {"a": TEXTS, "b": [t.upper() for t in TEXTS]}
    model, tokenizer, summary = pretrain(texts, texts, PretrainConfig(model=TINY, training=CONFIG))
    assert set(summary["perplexity"]) == {"a", "b"}
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer.encode("the old film", add_special_tokens=False)) == "the old film"
    demos = [Demonstration("movies", "the old film", " is good"), Demonstration("movies", "the new film", " is bad")]
    found = sft(model, tokenizer, demos, demos, SFTConfig(replace(CONFIG, steps=30)))
    assert found["loss"] < 3
    with pytest.raises(DataError, match="no demonstration fits"):
        sft(model, tokenizer, [Demonstration("movies", "x" * 90, " y")], demos, SFTConfig(CONFIG))


def test_pretrain_different_tasks_are_refused():
    with pytest.raises(DataError, match=r"training tasks \['a'\] and validation tasks \['b'\] differ"):
        pretrain({"a": TEXTS}, {"b": TEXTS}, PretrainConfig())


def test_config_refuses_nonsense():
    with pytest.raises(ConfigError, match="`steps` must be ≥ 1, got 0"):
        LMConfig(steps=0)


@pytest.mark.parametrize(("step", "share"), [(0, 0.5), (1, 1.0), (2, 1.0), (12, 0.1)])
def test_learning_rate_warms_up_and_decays_to_a_tenth(step: int, share: float):
    assert CONFIG.learning_rate_at(step, CONFIG.steps) == pytest.approx(share * CONFIG.learning_rate)
