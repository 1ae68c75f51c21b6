"""A store on a clock of its own, and a language model small enough for milliseconds, as a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.textenv.feedback.databases import database, postgresql, pytest_generate_tests
from textenv.feedback.store import Answer, FeedbackStore, Item

__all__ = ["database", "postgresql", "pytest_generate_tests"]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: str, clock: Clock) -> Iterator[FeedbackStore]:
    with FeedbackStore(database, lease_seconds=60, gold_share=0.0, clock=clock) as made:
        yield made


@pytest.fixture
def make_item() -> Callable[..., Item]:
    counts = {"demonstrate": 0, "rate": 1, "rank": 4, "compare": 2}

    def make(kind: Any = "compare", number: int = 0, **fields: Any) -> Item:
        answers = tuple(
            Answer(f"answer {j} to {number}", "tiny", "v1", {"temperature": 0.5}, seed=j) for j in range(counts[kind])
        )
        return Item(kind, f"prompt {number}", answers, **fields)

    return make


@pytest.fixture(scope="session")
def save_policy() -> Callable[..., Path]:
    """Writes a tiny policy into a folder."""
    from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
    from agents.policy import CausalLMPolicy

    texts = [f"the {a} film is {b}" for a in ("old", "new", "long") for b in ("good", "bad", "fine", "very good")]
    shape = ModelConfig(vocab_size=280, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, context=96)
    tokenizer = train_tokenizer(texts, shape.vocab_size)

    def save(folder: Path, seed: int = 0) -> Path:
        CausalLMPolicy(build_model(shape, tokenizer, seed), tokenizer).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def policy_folder(save_policy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policies") / "tiny")
