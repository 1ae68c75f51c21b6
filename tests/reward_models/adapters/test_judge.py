from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_models.adapters.causal_policy import CausalPolicy, load_causal_lm
from reward_models.adapters.judge import RatingJudge, TextJudge, load_text_judge
from tests.reward_models.tiny import save_trunk, tiny_llama, word_tokenizer
from textenv.errors import CheckpointError, ConfigError, RewardError, ShapeError
from textenv.protocols import GenerativePolicy

WORDS = ["the film is a great bad story . rate one two three user"]
TOKENIZER = word_tokenizer(WORDS, encoder=False)
MODEL = tiny_llama(TOKENIZER)
QUESTION = "rate {prompt} . {response} ."
RATINGS = {"one": 1.0, "two": 2.0, "three": 3.0}
PROMPTS = ["the film", "a story is a", "film"]
RESPONSES = ["is great", "bad", "a great bad story is a film . a great film"]


def judge(**options: Any) -> RatingJudge:
    return RatingJudge(CausalPolicy(MODEL, TOKENIZER), **({"question": QUESTION, "ratings": RATINGS} | options))


def expected_ratings() -> list[float]:
    found = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.inference_mode():
            ids = TOKENIZER.encode(QUESTION.format(prompt=prompt, response=response))
            p = MODEL(input_ids=torch.tensor([ids])).logits[0, -1].softmax(0).numpy()
        weights = p[[TOKENIZER.convert_tokens_to_ids(name) for name in RATINGS]]
        found.append(float(weights @ [1, 2, 3] / weights.sum()))
    return found


def test_rating_judge_gives_the_expected_rating() -> None:
    assert isinstance(CausalPolicy(MODEL, TOKENIZER), GenerativePolicy)
    np.testing.assert_allclose(judge().score(PROMPTS, RESPONSES), expected_ratings(), atol=1e-5)
    np.testing.assert_allclose(judge().score(PROMPTS[::-1], RESPONSES[::-1]), expected_ratings()[::-1], atol=1e-5)
    assert judge().score([], []).shape == (0,)
    assert judge().probabilities(PROMPTS, RESPONSES).shape == (3, 3)


def test_rating_judge_that_does_not_answer_with_ratings(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RewardError, match=r"response 'is great' gets ratings of probability 0\.\d+"):
        judge(min_mass=0.9).score(PROMPTS, RESPONSES)
    unsure = judge(min_mass=0.9, fallback_score=2.5)
    assert unsure.score(PROMPTS, RESPONSES).tolist() == [2.5] * 3
    assert unsure.fallbacks.count == 3
    assert "gets ratings of probability" in caplog.text


def test_rating_judge_too_long_question() -> None:
    long = judge(fallback_score=0.0, max_tokens=10)
    assert (long.score(PROMPTS, RESPONSES) == 0.0).tolist() == [False, False, True]
    with pytest.raises(RewardError, match="is too long for it"):
        judge().score(["the"], ["film " * 70])


def test_rating_judge_asks_in_the_chat_template() -> None:
    tokenizer = word_tokenizer(WORDS, encoder=False)
    policy = CausalPolicy(MODEL, tokenizer)
    with pytest.raises(ConfigError, match=r"chat prompts need a chat template, which .* lacks"):
        RatingJudge(policy, question=QUESTION, ratings=RATINGS, chat=True).score(["the"], ["film"])
    tokenizer.chat_template = "{{ messages[0]['role'] }} {{ messages[0]['content'] }}"
    chat = RatingJudge(policy, question=QUESTION, ratings=RATINGS, chat=True).score(["the"], ["film"])
    np.testing.assert_allclose(chat, judge(question="user " + QUESTION).score(["the"], ["film"]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratings": {"one two": 1.0, "three": 3.0}}, "the rating 'one two' is 2 tokens"),
        ({"ratings": {"one": 1.0}}, "at least two texts of different tokens"),
        ({"ratings": {"one": 1.0, " one": 2.0}}, "at least two texts of different tokens"),
        ({"min_mass": 2.0}, r"`min_mass` must lie in \[0, 1\]"),
        ({"question": "rate"}, r"`template` must hold"),
    ],
)
def test_rating_judge_unusable_settings_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        judge(**options)


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("Rating: 4", 4.0),
        ("I think the score is 2.5 of 5.", 2.5),
        ("**3**", 3.0),
        ("5", 5.0),
        ("The rating (1 to 5): 2", 1.0),  # the first number behind the word; a stricter pattern is the user's
        ("It is good.", None),
        ("Rating: 9", None),
        ("Rating: -1", None),
        ("", None),
    ],
)
def test_text_judge_parses_ratings(answer: str, rating: float | None) -> None:
    assert TextJudge(lambda questions: [answer] * len(questions)).parse(answer) == rating


def test_text_judge_counts_what_it_cannot_parse(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def answers(questions: list[str]) -> list[str]:
        seen.extend(questions)
        return ["Rating: 5", "no idea", "2"]

    rm = TextJudge(answers, question=QUESTION)
    with caplog.at_level(logging.WARNING):
        assert rm.score(PROMPTS, RESPONSES).tolist() == [5.0, 3.0, 2.0]  # the middle of 1 and 5
    assert rm.fallbacks.count == 1
    assert "the text judge: no rating in 'no idea'." in caplog.text
    assert seen[0] == "rate the film . is great ."
    assert rm.score([], []).shape == (0,)
    with pytest.raises(ShapeError, match="got 1 prompts"):
        rm.score(["a"], [])


def test_text_judge_of_words() -> None:
    rm = TextJudge(
        lambda questions: ["it is GOOD", "bad"],
        pattern="(good|bad)",
        verdicts={"Good": 1.0, "bad": 0.0},
        low=0.0,
        high=1.0,
    )
    assert rm.score(["a", "b"], ["c", "d"]).tolist() == [1.0, 0.0]


def test_text_judge_of_a_policy_answers_greedily(tmp_path: Path) -> None:
    folder = save_trunk(MODEL, TOKENIZER, tmp_path)
    words = "|".join(sorted(TOKENIZER.get_vocab(), key=len)[:9]).replace("[", r"\[").replace("]", r"\]")
    rm = load_text_judge(str(folder), QUESTION, pattern=f"({words}|.+)", low=-1, high=1, max_new_tokens=4)
    first, second = rm.score(PROMPTS, RESPONSES), rm.score(PROMPTS, RESPONSES)
    assert first.tolist() == second.tolist() == [0.0] * 3
    assert rm.fallbacks.count == 6
    assert rm.score(["the"], ["film " * 70]).tolist() == [0.0]  # too long to be asked
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_causal_lm(tmp_path / "none")


def test_text_judge_that_fails_is_a_reward_error() -> None:
    def broken(questions: list[str]) -> list[str]:
        raise TimeoutError("busy")

    with pytest.raises(RewardError, match="the judge raised TimeoutError: busy"):
        TextJudge(broken).score(["a"], ["b"])
    with pytest.raises(RewardError, match="gave 0 answers to 1 questions"):
        TextJudge(lambda questions: []).score(["a"], ["b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "is no regular expression"),
        ({"pattern": "a"}, "needs a group"),
        ({"low": 2.0, "high": 2.0}, "`low` must be less than `high`"),
    ],
)
def test_text_judge_unusable_settings_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextJudge(lambda questions: questions, **options)
