"""Reward models with a spread: they learn where people scatter, keep it on disk, and may be cautious."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from reward_models.labels import Rating
from reward_models.sequence import SequenceRewardModel
from reward_models.training import RewardModelConfig, train
from reward_models.uncertain import UncertainRewardModel
from tests.reward_models.tiny import tiny_bert, tiny_llama, word_tokenizer
from textenv.errors import CheckpointError, ConfigError, RewardError

WORDS = [" calm", " wild", " good", " bad"]
PROMPTS = ["p"] * 4


def make(kind: str = "encoder") -> UncertainRewardModel:
    tokenizer = word_tokenizer(["p", *WORDS], encoder=kind == "encoder")
    return UncertainRewardModel.from_trunk((tiny_bert if kind == "encoder" else tiny_llama)(tokenizer), tokenizer)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_fresh_model_scores_like_a_plain_one_with_spread_one(kind: str) -> None:
    rm = make(kind)
    tokenizer = word_tokenizer(["p", *WORDS], encoder=kind == "encoder")
    plain = SequenceRewardModel.from_trunk((tiny_bert if kind == "encoder" else tiny_llama)(tokenizer), tokenizer)
    found = rm.judge(PROMPTS, WORDS)
    assert found.means.tolist() == pytest.approx(plain.score(PROMPTS, WORDS).tolist(), abs=1e-6)
    assert found.stds.tolist() == [1.0] * 4
    assert rm.score([], []).shape == (0,)


@pytest.mark.slow
def test_training_finds_where_people_scatter_and_caution_takes_it_off() -> None:
    rng = np.random.default_rng(0)
    labels = [Rating("p", " calm", float(x)) for x in rng.normal(1.0, 0.3, 200)]
    labels += [Rating("p", " wild", float(x)) for x in rng.normal(1.0, 2.0, 200)]
    rm = make()
    config = RewardModelConfig(epochs=20, batch_size=16, learning_rate=1e-2, ratings_loss="gaussian", dtype="float32")
    train(rm, labels, replace(config, freeze_embeddings=False))
    found = rm.judge(PROMPTS[:2], WORDS[:2])
    assert found.means.tolist() == pytest.approx([1.0, 1.0], abs=0.35)
    assert found.stds.tolist() == pytest.approx([0.3, 2.0], rel=0.3)
    rm.caution = 1.0
    calm, wild = rm.score(PROMPTS[:2], WORDS[:2])
    assert calm > wild + 1.0


def test_saved_model_comes_back_and_plain_transformers_reads_it(tmp_path: Path) -> None:
    rm = make()
    with torch.no_grad():
        rm.model.classifier.weight[1] += 0.1
    rm.save_pretrained(tmp_path)
    again = UncertainRewardModel.from_pretrained(tmp_path, caution=0.5)
    one, other = rm.judge(PROMPTS, WORDS), again.judge(PROMPTS, WORDS)
    assert (one.means.tolist(), one.stds.tolist()) == (other.means.tolist(), other.stds.tolist())
    assert again.score(PROMPTS, WORDS).tolist() == pytest.approx((one.means - 0.5 * one.stds).tolist())
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_labels == 2


def test_other_models_and_damaged_weights_are_errors(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["p", *WORDS], encoder=True)
    plain = SequenceRewardModel.from_trunk(tiny_bert(tokenizer), tokenizer)
    plain.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no reward model with a spread"):
        UncertainRewardModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"must have 2 labels \(mean and log spread\), got 1"):
        UncertainRewardModel(plain.model, tokenizer, max_tokens=64)
    rm = make()
    with torch.no_grad():
        rm.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(RewardError, match="for the response ' calm'"):
        rm.score(PROMPTS, WORDS)
