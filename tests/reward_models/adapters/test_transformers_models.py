"""Classifiers with several classes, scalar heads and encoders, all tiny and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from reward_models.adapters.classifier import ClassifierRewardModel, log_odds
from reward_models.adapters.encoder import EncoderSimilarity
from reward_models.adapters.scalar_head import ScalarHeadRewardModel
from tests.reward_models.tiny import save_trunk, tiny_bert, tiny_llama, word_tokenizer
from textenv.errors import CheckpointError, ConfigError, RewardError, ShapeError

WORDS = ["the film is a great and moving story with bad dull boring parts in it ."]
PROMPTS = ["the film", "the", "a great story", "the film is", ""]
RESPONSES = [" is great.", "", " with dull and boring parts in it and a bad story.", " unseen words", " it"]
NAMES = {0: "bad", 1: "fine", 2: "good"}


def classifier(**settings: Any) -> tuple[Any, Any]:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = BertConfig(
            vocab_size=len(tokenizer),
            **sizes,
            intermediate_size=32,
            max_position_embeddings=64,
            id2label=NAMES,
            label2id={name: index for index, name in NAMES.items()},
            initializer_range=0.5,
            **settings,
        )
        return BertForSequenceClassification(config).eval(), tokenizer


MODEL, TOKENIZER = classifier()


def plain_logits(model: Any, tokenizer: Any) -> np.ndarray:
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.inference_mode():
            rows.append(model(input_ids=torch.tensor([tokenizer(prompt + response)["input_ids"]])).logits[0].numpy())
    return np.array(rows, dtype=np.float64)


def test_classifier_log_odds_of_the_positive_classes() -> None:
    p = np.exp(plain_logits(MODEL, TOKENIZER))
    p /= p.sum(1, keepdims=True)
    good = ClassifierRewardModel(MODEL, TOKENIZER, positive=["good"], max_tokens=64)
    np.testing.assert_allclose(good.score(PROMPTS, RESPONSES), np.log(p[:, 2] / (1 - p[:, 2])), atol=1e-5)
    not_bad = ClassifierRewardModel(MODEL, TOKENIZER, positive=[1, "good"], max_tokens=64)
    np.testing.assert_allclose(not_bad.score(PROMPTS, RESPONSES), np.log((1 - p[:, 0]) / p[:, 0]), atol=1e-5)


def test_classifier_expected_value() -> None:
    p = np.exp(plain_logits(MODEL, TOKENIZER))
    stars = ClassifierRewardModel(MODEL, TOKENIZER, values=[1, 2, 5], max_tokens=64).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(stars, p @ [1, 2, 5] / p.sum(1), atol=1e-5)


def test_classifier_with_many_labels_takes_the_logit() -> None:
    model, tokenizer = classifier(problem_type="multi_label_classification")
    rm = ClassifierRewardModel(model, tokenizer, positive=["fine"], max_tokens=64)
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), plain_logits(model, tokenizer)[:, 1], atol=1e-5)
    with pytest.raises(ConfigError, match="needs exactly one class"):
        ClassifierRewardModel(model, tokenizer, positive=["fine", "good"], max_tokens=64)


def test_log_odds_are_finite_far_out() -> None:
    np.testing.assert_allclose(log_odds(np.array([[1000.0, -1000.0], [0.0, 0.0]]), [0]), [2000.0, 0.0])


def test_classifier_folder_and_empty_input(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded = ClassifierRewardModel.from_pretrained(tmp_path, positive=["good"])
    own = ClassifierRewardModel(MODEL, TOKENIZER, positive=["good"], max_tokens=64)
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), own.score(PROMPTS, RESPONSES))
    assert loaded.score([], []).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `positive`"),
        ({"positive": ["good"], "values": [1, 2, 3]}, "give either `positive`"),
        ({"positive": ["great"]}, "has no class 'great'; it has bad, fine, good"),
        ({"positive": [0, 1, 2]}, "`positive` holds all classes"),
        ({"values": [1, 2]}, "`values` must be 3 finite numbers"),
    ],
)
def test_classifier_unusable_settings_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassifierRewardModel(MODEL, TOKENIZER, max_tokens=64, **options)


def test_scalar_head_reads_the_last_tokens_hidden_state(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=False)
    lm = tiny_llama(tokenizer)
    weight = torch.linspace(-1, 1, 32)
    rm = ScalarHeadRewardModel(lm, tokenizer, weight, bias=0.5, max_tokens=64)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.inference_mode():
            hidden = lm.model(input_ids=torch.tensor([tokenizer.encode(prompt + response)])).last_hidden_state
        expected.append(float(hidden[0, -1] @ weight) + 0.5)
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), expected, atol=1e-5)
    save_trunk(lm, tokenizer, tmp_path)
    with pytest.raises(CheckpointError, match=r"no head in .*looked for v_head\.summary, value_head"):
        ScalarHeadRewardModel.from_pretrained(tmp_path)
    for name in ("v_head.summary.", "value_head.", ""):
        save_file({f"{name}weight": weight[None], f"{name}bias": torch.tensor([0.5])}, tmp_path / "a.safetensors")
        loaded = ScalarHeadRewardModel.from_pretrained(tmp_path, head=tmp_path / "a.safetensors")
        np.testing.assert_allclose(loaded.score(PROMPTS, RESPONSES), expected, atol=1e-5)
    assert ScalarHeadRewardModel.from_pretrained(tmp_path).score(PROMPTS, RESPONSES).shape == (5,)


def test_scalar_head_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=False)
    with pytest.raises(ConfigError, match=r"weight has shape \(8,\), expected \(32,\)"):
        ScalarHeadRewardModel(tiny_llama(tokenizer), tokenizer, torch.zeros(8))
    (tmp_path / "head.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"cannot read .*head\.safetensors"):
        ScalarHeadRewardModel.from_pretrained(tmp_path, head=tmp_path / "head.safetensors")
    with pytest.raises(RewardError, match="the scalar head returned nan"):
        ScalarHeadRewardModel(tiny_llama(tokenizer), tokenizer, torch.full((32,), torch.nan), max_tokens=64).score(
            ["the"], [" film"]
        )


def encoder(**options: Any) -> EncoderSimilarity:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    return EncoderSimilarity(tiny_bert(tokenizer), tokenizer, max_tokens=64, **options)


def test_encoder_similarity_of_prompt_and_response() -> None:
    rm = encoder()
    same = rm.score(["the film is great", "the film"], ["the film is great", "bad dull boring parts"])
    assert same[0] == pytest.approx(1.0, abs=1e-6)
    assert same[1] < 0.999
    texts = ["the film", "a great and moving story with bad parts in it"]
    embedded = rm.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-6)
    for text, row in zip(texts, embedded, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([rm.tokenizer(text)["input_ids"]])
            mean = rm.model.encoder(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_encoder_similarity_to_examples() -> None:
    rm = encoder(liked=["a great story", "moving"], disliked=["dull"])
    answers = ["a great film", "boring"]
    cosine = rm.embed(answers) @ rm.embed(["a great story", "moving", "dull"]).T
    np.testing.assert_allclose(rm.score(["x"] * 2, answers), cosine[:, :2].mean(1) - cosine[:, 2], atol=1e-6)
    assert rm.score([], []).shape == (0,)
    with pytest.raises(ShapeError, match="got 1 prompts for 2 responses"):
        rm.score(["x"], answers)


def test_encoder_folder(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    save_trunk(tiny_bert(tokenizer), tokenizer, tmp_path)
    loaded = EncoderSimilarity.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.score(["the"], [" film"]), encoder().score(["the"], [" film"]), atol=1e-6)
    with pytest.raises(CheckpointError, match="cannot read the encoder"):
        EncoderSimilarity.from_pretrained(tmp_path / "none")
