from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.feedback.measures.judgements import JudgementLog, gold_credit, ordered_pairs
from textenv.feedback.store import KINDS, Answer, Item, Label, Scale

DATABASES = BOTH


@pytest.fixture
def log(store):
    return JudgementLog(store.database)


def save(store, item, rater="ann", payload=None, **fields: Any) -> Label:
    name = f"{rater}-{item.id}-{len(list(store.labels(include_undone=True, include_skipped=True)))}"
    return store.save_label(Label(name, item.id, rater, payload or {}, **fields)).label


def rank_item(number=0, **fields: Any) -> Item:
    texts = [("a" * 10, "sft"), ("b" * 30, "ppo"), ("c" * 20, "sft")]
    answers = tuple(Answer(text + str(number), policy, "v1") for text, policy in texts)
    return Item("rank", f"prompt {number}", answers, wanted=9, **fields)


def test_pairs_of_a_ranking(store, log):
    item = rank_item()
    store.add_items([item])
    save(store, item, payload={"ranks": [2, 1, 2]}, order=(2, 0, 1), seconds=4.0)
    assert log.update()
    found = log.judgements()

    pairs = found.pairs
    assert pairs.value.tolist() == [0.0, 0.5, 1.0]
    assert pairs.first_shown.tolist() == [True, False, False]
    assert list(zip(pairs.first_length.tolist(), pairs.second_length.tolist(), strict=True)) == [
        (11, 31),
        (11, 21),
        (31, 21),
    ]
    assert [found.sources[n] for n in pairs.first_source] == ["sft@v1", "sft@v1", "ppo@v1"]
    assert len(set(pairs.unit.tolist())) == 3
    assert len(set(pairs.prompt.tolist())) == 1
    assert found.labels.seconds.tolist() == [4.0]
    assert [KINDS[kind] for kind in found.labels.kind] == ["rank"]
    assert found.raters == ("ann",)


def test_raters_of_one_item_share_units_and_answers_that_nobody_ranked_are_in_no_pair(store, log):
    item = rank_item()
    store.add_items([item])
    save(store, item, "ann", {"ranks": [1, None, 2]})
    save(store, item, "bob", {"ranks": [1, 2, 3]})
    log.update()
    pairs = log.judgements().pairs

    assert len(pairs.value) == 4
    assert len(set(pairs.unit.tolist())) == 3
    assert pairs.unit[0] in pairs.unit[1:]


def test_ratings_and_skips_and_gold(store, log):
    wide = Item("rate", "why?", (Answer("long answer"),), scale=Scale(0, 10, {}), wanted=9)
    narrow = Item("rate", "who?", (Answer("x"),), scale=Scale(1, 3, {}), gold={"score": 2})
    store.add_items([wide, narrow])
    save(store, wide, "ann", {"score": 4})
    save(store, wide, "bob", skipped="unclear")
    save(store, narrow, "ann", {"score": 3})
    save(store, narrow, "bob", {"score": 2})
    log.update()
    found = log.judgements()

    assert (found.ratings.step.tolist(), found.ratings.worth.tolist()) == ([4], [0.4])
    assert (found.ratings.tolerance.tolist(), found.ratings.length.tolist()) == ([1], [11])
    assert found.labels.skipped.tolist() == [False, True, False, False]
    assert found.labels.gold.tolist() == [False, False, True, True]
    assert np.isnan(found.labels.credit[:2]).all()
    assert found.labels.credit[2:].tolist() == [0.0, 1.0]


def test_updates_read_what_is_new_alone_and_notice_what_was_taken_back(store, log):
    assert not log.update()
    items = [rank_item(number) for number in range(5)]
    store.add_items(items)
    for item in items[:3]:
        save(store, item, payload={"ranks": [1, 2, 3]})
    assert log.update()
    assert not log.update()
    # One goes, one comes: the number of labels is the same.
    store.undo("ann")
    save(store, items[3], "bob", {"ranks": [3, 2, 1]})
    assert log.update()
    found = log.judgements()
    assert len(found.labels.rater) == 3
    assert len(found.pairs.value) == 9
    assert [found.raters[rater] for rater in found.labels.rater] == ["ann", "ann", "bob"]
    assert [found.raters[rater] for rater in found.pairs.rater[::3]] == ["ann", "ann", "bob"]
    assert found.pairs.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    fresh = JudgementLog(store.database)
    fresh.update()
    for kept, new in zip(found.pairs, fresh.judgements().pairs, strict=True):
        assert kept.tolist() == new.tolist()


def test_more_labels_than_a_chunk_holds(store, log, monkeypatch):
    monkeypatch.setattr("textenv.feedback.measures.judgements._CHUNK", 4)
    monkeypatch.setattr("textenv.feedback.measures.judgements._NEW", _new(4))
    items = [rank_item(number) for number in range(11)]
    store.add_items(items)
    for item in items:
        save(store, item, payload={"ranks": [1, 2, 3]})
    log.update()

    assert len(log.judgements().labels.rater) == 11


def _new(size):
    from textenv.feedback.measures import judgements

    return judgements._NEW.limit(size)


@pytest.mark.parametrize(
    ("kind", "payload", "gold", "expected"),
    [
        ("compare", {"preferred": 1}, {"preferred": 1}, 1.0),
        ("compare", {"preferred": None}, {"preferred": 1}, 0.0),
        ("rate", {"score": 4}, {"score": 5}, 1.0),
        ("rate", {"score": 3}, {"score": 5}, 0.0),
        ("rank", {"ranks": [1, 2, 3]}, {"ranks": [1, 2, 3]}, 1.0),
        ("rank", {"ranks": [1, 3, 2]}, {"ranks": [1, 2, 3]}, 2 / 3),
        ("rank", {"ranks": [1, 1, 2]}, {"ranks": [1, 2, 3]}, 2.5 / 3),
        ("rank", {"ranks": [1, 2, None]}, {"ranks": [1, 2, 2]}, 1.5 / 2),
        ("rank", {"ranks": [1, 2, 3]}, {"ranks": [1, 1, 1]}, math.nan),
        ("demonstrate", {"text": "x"}, {"text": "x"}, math.nan),
    ],
)
def test_gold_credit_hand_worked(kind, payload, gold, expected):
    assert gold_credit(kind, payload, gold, Scale()) == pytest.approx(expected, nan_ok=True)


def test_on_short_scales_a_step_beside_is_wrong():
    assert gold_credit("rate", {"score": 2}, {"score": 3}, Scale(1, 4, {})) == 0.0


def test_comparisons_are_pairs():
    assert ordered_pairs("compare", {"preferred": None}) == [(0, 1, 0.5)]
    assert ordered_pairs("demonstrate", {"text": "x"}) == []
