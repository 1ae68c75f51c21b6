"""Simulated people judge what they are shown as their rater would, whatever the order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from reward_models.simulation import LabellingClient, LabellingError, LikertScale, Rater, SimulatedPerson
from textenv.errors import DataError

WORTH = {" good": 1.0, " fair": 0.0, " bad": -1.0}


def gold(prompts: list[str], responses: list[str]) -> list[float]:
    return [WORTH[response] for response in responses]


def shown(kind: str, *answers: str, order: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    texts = [{"answer": place, "text": answers[place]} for place in order]
    return {"id": "i", "kind": kind, "prompt": "Q?", "answers": texts, "order": list(order), **more}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_comparisons_name_the_answer_whatever_its_place(order: tuple[int, ...]):
    person = SimulatedPerson(Rater(noise=0.0), gold)
    assert person.judge(shown("compare", " bad", " good", order=order)) == {
        "preferred": 1,
        "margin": 0,
        "both_bad": False,
    }


def test_comparisons_follow_bradley_terry():
    person = SimulatedPerson(Rater(noise=0.8), gold, seed=3)
    item = shown("compare", " fair", " good", order=(1, 0))
    said = [person.judge(item) for _ in range(4000)]
    share = np.mean([answer is not None and answer["preferred"] == 1 for answer in said])
    exact = 1 / (1 + math.exp(-1 / 0.8))
    assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_equal_answers_and_small_differences_are_ties():
    person = SimulatedPerson(Rater(noise=0.0, tie_threshold=1.5), gold)
    for answers in ((" good", " good"), (" fair", " good")):
        payload = person.judge(shown("compare", *answers, order=(0, 1)))
        assert payload is not None
        assert payload["preferred"] is None


def test_rankings_are_in_terms_of_the_items_own_numbers():
    person = SimulatedPerson(Rater(noise=0.0), gold)
    assert person.judge(shown("rank", " bad", " good", " fair", order=(2, 0, 1))) == {"ranks": [3, 1, 2]}


def test_ratings_lie_on_the_items_scale():
    person = SimulatedPerson(Rater(noise=0.0), gold, scale=LikertScale(unit=0.5))
    scale = {"low": 1, "high": 9, "anchors": {}}
    found = [person.judge(shown("rate", text, order=(0,), scale=scale)) for text in (" bad", " fair", " good")]
    assert found == [{"score": 1}, {"score": 5}, {"score": 9}]


def test_demonstrations_are_written_or_skipped():
    assert SimulatedPerson(Rater(), gold, write=lambda prompt: prompt + "!").judge(shown("demonstrate")) == {
        "text": "Q?!"
    }
    assert SimulatedPerson(Rater(), gold).judge(shown("demonstrate")) is None


def test_an_unknown_kind_is_refused():
    with pytest.raises(DataError, match="unknown kind 'sing'"):
        SimulatedPerson(Rater(), gold).judge(shown("sing"))


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(LabellingError, match="cannot be reached"):
        LabellingClient("http://127.0.0.1:9/label/enter?rater=ann", retries=0)
