from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reward_models.adapters.rules import FORMATS, RULES, FormatRule, KeywordRule, LengthRule, RegexRule, measure
from reward_models.base import RewardModel
from reward_models.ensembles import WeightedSum
from reward_models.loading import load_reward_model
from textenv.errors import ConfigError, ShapeError


def one(rule: Any, response: str) -> float:
    return float(rule.score(["prompt"], [response])[0])


@pytest.mark.parametrize(
    ("rule", "response", "score"),
    [
        (RegexRule(r"\d+"), "in 1999", 1.0),
        (RegexRule(r"\d+"), "never", 0.0),
        (RegexRule(r"\d+", mode="absent"), "never", 1.0),
        (RegexRule(r"yes|no", mode="full"), " yes\n", 1.0),
        (RegexRule(r"yes|no", mode="full"), "yes!", 0.0),
        (RegexRule("a", mode="count"), "banana", 3.0),
        (RegexRule("a", mode="count", most=2), "banana", 2.0),
        (LengthRule(3), "one two three", 1.0),
        (LengthRule(3), "", 0.5),  # 1 / (1 + 3/3)
        (LengthRule(3, tolerance=1), "one two", 1.0),
        (LengthRule(10, "characters", scale=5), "x" * 25, 0.25),  # 1 / (1 + 15/5)
        (LengthRule(2, "sentences"), "One. Two!", 1.0),
        (FormatRule("json"), '{"a": 1}', 1.0),
        (FormatRule("json"), "{a: 1}", 0.0),
        (FormatRule("not_empty"), " \n", 0.0),
        (FormatRule("one_line"), " a \n", 1.0),
        (FormatRule("one_line"), "a\nb", 0.0),
        (FormatRule("sentence_end"), 'He said "no." ', 1.0),
        (FormatRule("sentence_end"), "and then", 0.0),
        (FormatRule("bullets"), "- a\n2. b\n", 1.0),
        (FormatRule("bullets"), "- a\nb", 0.0),
        (FormatRule("no_markup"), "plain * text", 1.0),
        (FormatRule("no_markup"), "**bold**", 0.0),
        (KeywordRule(("good", "film")), "A GOOD book", 0.5),
        (KeywordRule(("good",), ignore_case=False), "A GOOD book", 0.0),
        (KeywordRule(("art",), "any"), "party", 0.0),
        (KeywordRule(("C++", "art"), "any"), "in C++.", 1.0),
        (KeywordRule(("a", "b"), "all"), "a c", 0.0),
        (KeywordRule(("a", "b"), "none"), "c", 1.0),
    ],
)
def test_rule_scores(rule: Any, response: str, score: float) -> None:
    assert isinstance(rule, RewardModel)
    assert one(rule, response) == pytest.approx(score)


@pytest.mark.parametrize(
    ("unit", "length"), [("words", 6), ("characters", 25), ("sentences", 2), ("lines", 2)], ids=lambda x: str(x)
)
def test_measure_counts(unit: str, length: int) -> None:
    assert measure("It's a film.\n\n 3.5 stars!", unit) == length


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegexRule("("), r"`pattern` '\(' is no regular expression"),
        (lambda: RegexRule("a", mode="x"), "`mode` must be one of 'found', 'absent', 'full', 'count', got 'x'"),  # type: ignore[arg-type]
        (lambda: RegexRule("a", most=0), "`most` must be ≥ 1"),
        (lambda: LengthRule(-1), "`target` must be ≥ 0, got -1"),
        (lambda: LengthRule(1, "pages"), "`unit` must be one of"),  # type: ignore[arg-type]
        (lambda: FormatRule("xml"), "`format` must be one of not_empty, json"),
        (lambda: KeywordRule(()), "at least one and none blank"),
        (lambda: KeywordRule(("a", " ")), "at least one and none blank"),
        (lambda: KeywordRule("word"), "must be a list of texts, got the one text 'word'"),  # type: ignore[arg-type]
    ],
)
def test_unusable_rule_is_a_config_error(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_rules_compose_and_survive_their_description() -> None:
    rules = [RegexRule("a", mode="count"), LengthRule(2, tolerance=1.0), FormatRule("bullets"), KeywordRule(("x",))]
    assert {rule.KIND for rule in rules} == set(RULES)
    both = WeightedSum(rules, [0.5, 1.0, 1.0, -1.0])
    assert both.score(["p"], ["- a x"]).tolist() == [0.5 + 1.0 + 1.0 - 1.0]
    assert [load_reward_model(rule.to_spec()) for rule in rules] == rules


def test_rules_want_a_prompt_for_each_response() -> None:
    with pytest.raises(ShapeError, match="got 0 prompts for 1 responses"):
        FormatRule().score([], ["a"])
    assert FormatRule().score([], []).dtype == np.float32
    assert set(FORMATS) >= {"json", "bullets"}
