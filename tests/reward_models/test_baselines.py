"""Text template, lexicon, TF-IDF, labels and normalisation."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reward_models
from reward_models import (
    Comparison,
    Lexicon,
    Normalization,
    Rating,
    RewardModel,
    TextTemplate,
    TfidfRidge,
    comparisons_from_ratings,
    pair_accuracy,
    ratings_from_texts,
)
from reward_models.lexicon import positive_share
from textenv.datasets import INSTRUCTIONS, builtin_ratings
from textenv.errors import CheckpointError, ConfigError, DataError, ShapeError


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(reward_models, name) for name in reward_models.__all__)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="No reward_models attribute Nothing"):
        _ = reward_models.Nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_text_template_default_joins_without_anything_between() -> None:
    assert TextTemplate()("Go on:", " well.") == "Go on: well."


def test_text_template_placeholder_inside_a_prompt_is_left_alone() -> None:
    assert TextTemplate("Q {prompt} A {response}!")("{response}", "{prompt}") == "Q {response} A {prompt}!"


@pytest.mark.parametrize("template", ["{prompt}", "{response}{prompt}", "{prompt}{prompt}{response}", ""])
def test_text_template_unusable_is_a_config_error(template: str) -> None:
    with pytest.raises(ConfigError, match=r"must hold \{prompt\} and then \{response\}"):
        TextTemplate(template)


@pytest.mark.parametrize("model", [Lexicon(), TfidfRidge(min_count=1).fit(["good day", "bad day"], [1.0, -1.0])])
def test_baselines_are_reward_models(model: RewardModel) -> None:
    assert isinstance(model, RewardModel)
    scores = model.score(["A", "A", "A"], [" good day", " bad day", ""])
    assert scores.dtype == np.float32
    assert scores[0] > scores[2] > scores[1]
    assert model.score([], []).shape == (0,)
    with pytest.raises(ShapeError, match="got 1 prompts for 2 responses"):
        model.score(["A"], ["b", "c"])


def test_lexicon_gives_the_compound_score() -> None:
    # 3.1 / sqrt(3.1² + 15): VADER's value for a text whose only sentiment word is "great".
    expected = round(3.1 / math.sqrt(3.1**2 + 15), 4)
    assert Lexicon().score(["The film is"], [" great"]).tolist() == pytest.approx([expected])


def test_lexicon_without_prompt_reads_the_response_only() -> None:
    prompts, responses = ["A wonderful start"], [" and a table"]
    assert Lexicon(include_prompt=False).score(prompts, responses).tolist() == [0.0]
    assert Lexicon().score(prompts, responses)[0] > 0.5


def test_lexicon_hears_nothing_in_the_instructions() -> None:
    assert Lexicon().score(list(INSTRUCTIONS.values()), [""] * 4).tolist() == [0.0] * 4


def test_positive_share_counts_above_the_threshold() -> None:
    assert positive_share(np.array([0.05, 0.06, -1, 1], dtype=np.float32)) == 0.5
    assert math.isnan(positive_share(np.zeros(0, dtype=np.float32)))


def test_tfidf_unfitted_says_so() -> None:
    with pytest.raises(ConfigError, match="has to be fitted before it scores"):
        TfidfRidge().score(["a"], ["b"])


def test_tfidf_lengths_that_disagree_are_an_error() -> None:
    with pytest.raises(ShapeError, match="got 2 texts and 1 means"):
        TfidfRidge().fit(["a", "b"], [1.0])


def test_baselines_order_the_builtin_texts() -> None:
    training, test = (
        ratings_from_texts(builtin_ratings(800, split="train")),
        ratings_from_texts(builtin_ratings(400, 1)),
    )
    ridge = TfidfRidge().fit([x.prompt + x.response for x in training], [x.score for x in training])
    for model, bar in ((Lexicon(), 0.85), (ridge, 0.8)):
        scores = model.score([x.prompt for x in test], [x.response for x in test])
        rng = np.random.default_rng(0)
        assert pair_accuracy(scores, [x.score for x in test], rng, resamples=0)[0.5].value > bar


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_rating_not_finite_is_an_error(score: float) -> None:
    with pytest.raises(DataError, match=r"`score` must be finite, got .* for the response 'text'"):
        Rating("p", "text", score)


@pytest.mark.parametrize(("margin", "weight"), [(math.nan, 1.0), (0.0, -1.0), (0.0, math.inf)])
def test_comparison_unusable_is_an_error(margin: float, weight: float) -> None:
    with pytest.raises(DataError, match="for the prompt 'why'"):
        Comparison("why", "a", "b", margin, weight)


def test_ratings_from_texts_keep_the_text_and_the_mean() -> None:
    texts = builtin_ratings(12)
    for label, rated in zip(ratings_from_texts(texts), texts, strict=True):
        assert label.prompt + label.response == INSTRUCTIONS[rated.domain] + rated.text
        assert label.score == rated.mean


def test_comparisons_from_ratings_pair_within_a_prompt() -> None:
    ratings = [Rating("p", "a", 1.0), Rating("q", "x", 0.0), Rating("p", "b", 3.0), Rating("p", "c", 1.2)]
    made = comparisons_from_ratings(ratings, np.random.default_rng(0), per_prompt=9, min_gap=0.5)
    assert {(x.prompt, x.chosen, x.rejected) for x in made} == {("p", "b", "a"), ("p", "b", "c")}
    assert len(comparisons_from_ratings(ratings, np.random.default_rng(0), per_prompt=1)) == 1


def test_normalization_hand_worked() -> None:
    made = Normalization.fit([1.0, 3.0], policy="sft")
    assert (made.gain, made.bias, made.samples, made.policy) == (1.0, -2.0, 2, "sft")
    assert (made.mean_before, made.std_before, made.mean_after, made.std_after) == (2.0, 1.0, 0.0, 1.0)
    assert Normalization.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1.0], "at least 2 finite"), ([1.0, math.nan], "at least 2 finite"), ([2.0, 2.0], "a constant reward model")],
)
def test_normalization_unusable_scores_are_an_error(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Normalization.fit(scores, policy="sft")


def test_normalization_damaged_record_is_an_error() -> None:
    record = Normalization.fit([1.0, 3.0], policy="sft").to_json()
    with pytest.raises(CheckpointError, match="here: gain must be positive"):
        Normalization.from_json(record | {"gain": 0.0}, where="here")
    record.pop("gain")
    with pytest.raises(CheckpointError, match="here: expected the fields"):
        Normalization.from_json(record, where="here")
