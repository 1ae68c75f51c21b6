from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.lm.finetuning import SFTConfig, group_shares, prepare, sft
from agents.lm.in_memory import LMConfig
from agents.lm.pretraining import build_model
from tests.agents.conftest import TINY
from textenv.errors import ConfigError, DataError
from textenv.runs import Run
from textenv.tasks import LABELERS, USERS, Conversation, Demonstrated

TRAINING = LMConfig(
    steps=8, batch_size=4, learning_rate=3e-3, warmup_steps=2, eval_every=4, checkpoint_every=3, dtype="float32"
)


class Console:
    """Keeps what is printed."""

    is_terminal = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, text: str, highlight: bool = True) -> None:
        self.lines.append(text)


def shown(task: str, source: str, count: int) -> list[Demonstrated]:
    return [Demonstrated(f"the {i} film", " is good", source, task) for i in range(count)]


MIXED = [*shown("a", LABELERS, 6), *shown("a", USERS, 2), *shown("b", LABELERS, 8)]


def test_examples_are_grouped_by_task_and_counted_by_source(tokenizer):
    found = prepare(MIXED, tokenizer, TINY.context, by_task=True)
    assert {group: len(examples) for group, examples in found.examples.items()} == {"a": 8, "b": 8}
    assert found.sources == {LABELERS: 14, USERS: 2}
    apart = prepare(MIXED, tokenizer, TINY.context, {LABELERS: 1, USERS: 0}, by_task=True)
    assert {group: len(examples) for group, examples in apart.examples.items()} == {"a/labelers": 6, "b/labelers": 8}
    assert list(prepare(MIXED, tokenizer, TINY.context).examples) == ["sft"]


def test_an_answer_that_the_context_cuts_off_is_left_out_and_named(tokenizer, tmp_path: Path):
    long = Demonstrated("x" * 60, " y", USERS, "a")
    found = prepare([*MIXED, long], tokenizer, TINY.context, by_task=True)
    assert found.left_out == ["a, users: '" + "x" * 60 + "' (64 tokens)"]
    assert max(len(e.tokens) for e in found.examples["a"]) <= TINY.context
    console: Any = Console()
    run = Run(tmp_path, tensorboard=False, console=console)
    model = build_model(TINY, tokenizer, 0)
    summary = sft(model, tokenizer, [*MIXED, long], [*MIXED, long], SFTConfig(TRAINING), run=run)
    assert (summary["left_out"], summary["left_out_held_out"]) == (1, 1)
    assert any(
        "2 of 34 demonstrations exceed the context of 48 tokens and are left out: sft" in x for x in console.lines
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SFTConfig(), None),
        (SFTConfig(temperature=2.0), {"a": 0.75, "b": 0.25}),
        (SFTConfig(weights={"a": 1, "b": 4}), {"a": 0.2, "b": 0.8}),
    ],
    ids=["sizes", "temperature", "weights"],
)
def test_shares_of_tasks(config: SFTConfig, expected: dict[str, float] | None):
    found = group_shares({"a": 90, "b": 10}, config)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_shares_of_sources_hold_within_each_task():
    config = SFTConfig(weights={"a": 1, "b": 1}, sources={"labelers": 1, "users": 3})
    found = group_shares({"a/labelers": 10, "a/users": 1, "b/labelers": 5}, config)
    assert found == pytest.approx({"a/labelers": 0.125, "a/users": 0.375, "b/labelers": 0.5})


def test_weights_decide_what_is_learned(tokenizer):
    good = [Demonstrated(f"the {i} film", " is good", LABELERS, "a") for i in range(8)]
    bad = [Demonstrated(f"the {i} film", " is bad", USERS, "a") for i in range(8)]
    losses = {}
    for sources in ({LABELERS: 1.0, USERS: 0.0}, {LABELERS: 0.0, USERS: 1.0}):
        model = build_model(TINY, tokenizer, 0)
        config = SFTConfig(replace(TRAINING, steps=25), sources=sources)
        summary = sft(model, tokenizer, good + bad, good, config, by_task=True)
        losses[tuple(sources.values())] = summary["loss"]
        assert sum(summary["examples"].values()) == 8
    assert losses[1.0, 0.0] < losses[0.0, 1.0] - 0.3


@pytest.mark.parametrize("packing", [False, True])
def test_conversations_and_answers_train_together_and_samples_are_written(packing: bool, tokenizer, tmp_path: Path):
    chats = [
        Conversation(
            ({"role": "user", "content": f"film {i}"}, {"role": "assistant", "content": "good"}), USERS, "chats"
        )
        for i in range(6)
    ]
    config = SFTConfig(TRAINING, packing=packing, samples=3, max_new_tokens=5)
    run = Run(tmp_path, tensorboard=False)
    found = sft(
        build_model(TINY, tokenizer, 0), tokenizer, [*MIXED, *chats], [*MIXED, *chats], config, by_task=True, run=run
    )
    assert set(found["losses"]) == {"a", "b", "chats"}
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    lines = [json.loads(line) for line in (tmp_path / "sft" / "generations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["task"]) for line in lines] == [(s, t) for s in (4, 8) for t in ("a", "b", "chats")]
    assert lines[0]["prompt"] == "the 0 film"
    assert lines[0]["reference"] == " is good"


def test_samples_change_no_number_and_a_resumed_run_writes_them_once(tokenizer, tmp_path: Path, monkeypatch):
    def run(folder: Path, *, samples: int, stop: bool = False) -> tuple[dict[str, Any], torch.Tensor]:
        model = build_model(TINY, tokenizer, 0)
        config = SFTConfig(TRAINING, samples=samples, max_new_tokens=5)
        if stop:
            record = Run(folder, tensorboard=False)
            original = record.log

            def log(stage: str, step: int, metrics: Any) -> None:
                original(stage, step, metrics)
                raise KeyboardInterrupt

            monkeypatch.setattr(record, "log", log)
            with pytest.raises(KeyboardInterrupt):
                sft(build_model(TINY, tokenizer, 0), tokenizer, MIXED, MIXED, config, run=record)
        found = sft(model, tokenizer, MIXED, MIXED, config, run=Run(folder, tensorboard=False))
        return found, torch.cat([p.detach().flatten() for p in model.parameters()])

    plain, weights = run(tmp_path / "plain", samples=0)
    whole, sampled = run(tmp_path / "whole", samples=2)
    resumed, after = run(tmp_path / "resumed", samples=2, stop=True)
    assert plain == whole == resumed
    assert torch.equal(weights, sampled)
    assert torch.equal(weights, after)
    texts = [(tmp_path / name / "sft" / "generations.jsonl").read_text() for name in ("whole", "resumed")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_rank": -1}, "`lora_rank` must be ≥ 0, got -1"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be ≥ 1, got 0"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"sources": {"users": 0.0}}, "`sources` must be ≥ 0 and not all 0"),
        ({"weights": {"a": -1.0}}, "`weights` must be ≥ 0"),
    ],
)
def test_config_refuses_nonsense(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SFTConfig(**arguments)


def test_what_does_not_fit_the_data_is_named(tokenizer):
    with pytest.raises(
        ConfigError, match=r"`sources` names \['users'\], the demonstrations come from \['labelers', 'us"
    ):
        prepare(MIXED, tokenizer, TINY.context, {USERS: 1.0})
    with pytest.raises(ConfigError, match=r"mixture weights name \['c'\], the tasks are \['a', 'b'\]"):
        group_shares({"a": 1, "b": 1}, SFTConfig(weights={"c": 1.0}))
    with pytest.raises(DataError, match="no demonstration fits the model's context of 48 tokens"):
        sft(build_model(TINY, tokenizer, 0), tokenizer, [Demonstrated("x" * 60, "y")], MIXED, SFTConfig(TRAINING))
