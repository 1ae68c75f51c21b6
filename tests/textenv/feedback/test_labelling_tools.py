"""Files of Label Studio and Argilla that others have made: what is read, what is left out and said, what is refused.

Whether the tools' own packages take what we write, and write what we take, is checked in ``tests/compat``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from textenv.errors import DataError
from textenv.feedback.formats import Imported, import_labels
from textenv.feedback.store import FeedbackStore

PAIR = {"question": "Q?", "answer_a": "one", "answer_b": "two"}
LIST = {"prompt": "Q?", "docs": [{"id": "x", "title": "X", "body": "one"}, {"id": "y", "html": "two"}]}
ONE = {"prompt": "Q?", "response": "one"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "s.db") as made:
        yield made


def result(name: str, kind: str, value: Any) -> dict[str, Any]:
    return {"id": f"r-{name}", "from_name": name, "to_name": "x", "type": kind, "value": value}


def annotation(*results: dict[str, Any], by: Any = 3, **fields: Any) -> dict[str, Any]:
    return {"completed_by": by, "was_cancelled": False, "result": list(results), "lead_time": 1.5, **fields}


def take(store: FeedbackStore, path: Path, content: Any, **options: Any) -> Imported:
    path.write_text(json.dumps(content), encoding="utf-8")
    return import_labels(store, path, **options)


def payloads(store: FeedbackStore) -> list[Any]:
    return [dict(each.label.payload) for each in store.labels()]


@pytest.mark.parametrize(
    ("data", "results", "expected"),
    [
        (LIST, [result("rank", "ranker", {"ranker": {"rank": ["y", "x"]}})], {"ranks": [2, 1]}),
        (LIST, [result("ranker", "ranker", {"ranker": {"rank": ["y", "x"], "_": []}})], {"ranks": [2, 1]}),
        (PAIR, [result("pw", "pairwise", {"selected": "right"})], 1),
        (PAIR, [result("side", "choices", {"choices": ["answer_b"]})], 1),
        (PAIR, [result("side", "choices", {"choices": ["A"]})], 0),
        (PAIR, [result("side", "choices", {"choices": ["Response 2 is better"]})], 1),
        (PAIR, [result("side", "choices", {"choices": ["Tie"]})], None),
        (PAIR, [result("side", "choices", {"choices": ["Both bad"]})], "bad"),
        (ONE, [result("stars", "rating", {"rating": 4}), result("why", "textarea", {"text": ["so"]})], {"score": 4}),
        ({"instruction": "Q?"}, [result("t", "textarea", {"text": ["a", "b"]})], {"text": "a\nb"}),
    ],
)
def test_label_studio_results_are_read_as_they_are_meant(store, tmp_path, data, results, expected):
    take(store, tmp_path / "in.json", [{"id": 1, "data": data, "annotations": [annotation(*results)]}])
    if not isinstance(expected, dict):
        side = expected if expected in (0, 1) else None
        expected = {"preferred": side, "margin": 0, "both_bad": expected == "bad"}
    assert payloads(store) == [expected]
    assert [each.label.seconds for each in store.labels()] == [1.5]


def test_label_studio_annotations_that_say_nothing_are_counted(store, tmp_path):
    pairwise = result("pw", "pairwise", {"selected": "left"})
    tie = result("same", "choices", {"choices": ["tie"]})
    annotations = [
        annotation(pairwise, by={"id": 4, "email": "ann@example.org", "first_name": "Ann"}),
        annotation(pairwise, by=None),
        annotation(by=5),
        annotation(was_cancelled=True, by=6),
        annotation(pairwise, tie, by=7),
        annotation(result("pw", "pairwise", {"selected": "right"}), by=8),
        annotation(pairwise, by=8),
    ]
    done = take(store, tmp_path / "in.json", [{"id": 1, "data": PAIR, "annotations": annotations}])
    assert done.remarks == {
        "annotations without an answer, left out": 1,
        "cancelled annotations, kept as skips": 1,
        "annotations that say both a side and a tie, left out": 1,
        "control `same`: not read": 1,
        "earlier annotations of the same task by the same person, left out": 1,
    }
    said = {each.label.rater: each.label.payload.get("preferred") for each in store.labels(include_skipped=True)}
    assert said == {"ann@example.org": 0, "imported": 0, "label-studio-6": None, "label-studio-8": 0}


def test_several_label_studio_controls_need_a_word(store, tmp_path):
    results = [result("helpful", "rating", {"rating": 5}), result("honest", "rating", {"rating": 2})]
    tasks = [{"id": 1, "data": ONE, "annotations": [annotation(*results)]}]
    with pytest.raises(
        DataError, match=r"task 0: several controls fit: helpful, honest; say which counts .`--question helpful`"
    ):
        take(store, tmp_path / "in.json", tasks)
    done = take(store, tmp_path / "in.json", tasks, question="honest")
    assert payloads(store) == [{"score": 2}]
    assert done.remarks["control `helpful`: not read"] == 1


@pytest.mark.parametrize(
    ("data", "results", "match"),
    [
        (LIST, [result("r", "ranker", {"ranker": {"good": ["x"], "bad": ["y"]}})], r"task 0: `ranker` has the buckets"),
        (LIST, [result("r", "ranker", {"ranker": {"_": ["x"], "bad": ["y"]}})], r"task 0: `ranker` has the buckets"),
        (LIST, [result("r", "ranker", {"ranker": {"r": ["z"]}})], r"task 0: `ranker` names 'z'"),
        (PAIR, [result("pw", "pairwise", {"selected": "middle"})], r"task 0: 'middle' names no side"),
        ({"text": "Q?"}, [], r"task 0: field `data.prompt`: expected a prompt .* got \['text'\]"),
        (ONE, [result("stars", "rating", {"rating": 7})], r"task 0: `score` must be a whole number from 1 to 5"),
    ],
)
def test_label_studio_results_that_may_mean_anything_are_refused(store, tmp_path, data, results, match):
    with pytest.raises(DataError, match=match):
        take(store, tmp_path / "in.json", [{"id": 1, "data": data, "annotations": [annotation(*results)]}])
    assert store.items() == []


def record(responses: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "r1", "fields": {"instruction": "Q?", **fields}, "metadata": {}, "responses": responses}


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        ({"response": "one"}, 3, {"score": 3}),
        ({"response_a": "one", "response_b": "two"}, "response_b", 1),
        ({"response_a": "one", "response_b": "two"}, "tie", None),
        ({"response-0": "one", "response-1": "two"}, "1", 1),
        ({"output1": "one", "output2": "two"}, ["output2", "output1"], {"ranks": [2, 1]}),
        (
            {"output1": "one", "output2": "two"},
            [{"value": "output1", "rank": 1}, {"value": "output2", "rank": 1}],
            {"ranks": [1, 1]},
        ),
        ({}, "written", {"text": "written"}),
    ],
)
def test_argilla_questions_of_ones_own_are_read_by_their_values(store, tmp_path, fields, value, expected):
    take(store, tmp_path / "in.json", [record({"my question": [{"value": value, "user_id": "u1"}]}, **fields)])
    if not isinstance(expected, dict):
        expected = {"preferred": expected, "margin": 0, "both_bad": False}
    assert payloads(store) == [expected]
    assert [each.label.rater for each in store.labels()] == ["u1"]


def test_argilla_drafts_discarded_and_empty_responses_are_counted(store, tmp_path):
    values = {"q": {"value": 4}, "note": {"value": "so"}}
    users = [
        {"user_id": "a", "status": "submitted", "values": values},
        {"user_id": "b", "status": "draft", "values": {"q": {"value": 1}}},
        {"user_id": "c", "status": "discarded", "values": {"q": {"value": 2}}},
        {"user_id": "d", "status": "submitted", "values": {"q": {"value": None}}},
    ]
    done = take(store, tmp_path / "in.json", [record(users, response="one")])
    assert done.remarks == {
        "drafts, left out": 1,
        "question `note`: not read": 1,
        "ratings that name no scale, taken as 1…5": 1,
        "discarded responses, kept as skips": 1,
        "empty responses, left out": 1,
    }
    assert {each.label.rater: each.label.skipped for each in store.labels(include_skipped=True)} == {
        "a": None,
        "c": "discarded in Argilla",
    }


def test_several_argilla_questions_need_a_word(store, tmp_path):
    responses = {name: [{"value": v, "user_id": "u"}] for name, v in (("helpful", 5), ("honest", 2))}
    with pytest.raises(DataError, match=r"record 0: several questions fit: helpful, honest"):
        take(store, tmp_path / "in.json", [record(responses, response="one")])
    take(store, tmp_path / "in.json", [record(responses, response="one")], question="helpful")
    assert payloads(store) == [{"score": 5}]


def test_a_bad_record_leaves_nothing_of_the_file(store, tmp_path):
    good = record({"q": [{"value": 4, "user_id": "u"}]}, response="one")
    bad = record({"q": [{"value": 9, "user_id": "u"}]}, response="one") | {"id": "r2"}
    with pytest.raises(DataError, match=r"in.json: record 1: `score` must be"):
        take(store, tmp_path / "in.json", [good, bad])
    assert store.items() == []
