from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.feedback.measures import figures
from textenv.feedback.measures.figures import NEEDS_TWO, Dashboard
from textenv.feedback.store import Answer, Item, Label

DATABASES = BOTH


@pytest.fixture
def dashboard(store, clock, monkeypatch):
    monkeypatch.setattr(figures, "_LEAST_AGE_SECONDS", 0.0)
    monkeypatch.setattr(figures, "_SHARE_OF_TIME", 1e9)
    return Dashboard(store.database, clock, patience=60)


def compare(number: int, **fields: Any) -> Item:
    answers = (Answer(f"short {number}", "sft", "v1"), Answer(f"a longer answer {number}", "ppo", "v2"))
    return Item("compare", f"prompt {number}", answers, wanted=9, **fields)


def say(store, item: Item, rater: str, payload: dict[str, Any], **fields: Any) -> None:
    store.save_label(Label(f"{rater}-{item.id}", item.id, rater, payload, **fields))


def test_an_empty_store_has_figures(dashboard):
    found = dashboard.figures()

    assert (found["labels"], found["skips"], found["queue"], found["agreement"], found["raters"]) == (0, 0, [], [], [])
    assert found["length"]["longer"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_one_rater_is_too_few_for_agreement_and_ceiling(store, dashboard):
    items = [compare(number) for number in range(3)]
    store.add_items(items)
    for item in items:
        say(store, item, "ann", {"preferred": 1})
    found = dashboard.figures()

    (agreement,), (ceiling,) = found["agreement"], found["ceiling"]
    assert (agreement["alpha"]["value"], agreement["note"]) == (None, NEEDS_TWO)
    assert (ceiling["value"], ceiling["note"]) == (None, NEEDS_TWO)
    (win,) = found["win_rates"]
    assert (win["first"], win["second"], win["share"]["value"]) == ("ppo@v2", "sft@v1", 1.0)
    assert found["length"]["longer"]["value"] == 1.0
    json.dumps(found, allow_nan=False)


def test_figures_hand_worked(store, clock, dashboard):
    items = [compare(number) for number in range(3)]
    store.add_items([*items, compare(9, gold={"preferred": 0})])
    for rater, choices in {"ann": (0, 1, 0), "bob": (0, 1, 1)}.items():
        for item, preferred in zip(items, choices, strict=True):
            say(store, item, rater, {"preferred": preferred}, order=(1, 0))
        say(store, compare(9, gold={"preferred": 0}), rater, {"preferred": 0})
    found = dashboard.figures()

    (agreement,) = found["agreement"]
    assert agreement["same"]["value"] == pytest.approx(2 / 3)
    # From both sides: 6 units, observed 4/12; expected 72/132.
    assert agreement["alpha"]["value"] == pytest.approx(1 - (4 / 12) / (72 / 132))
    assert found["ceiling"][0]["value"] == pytest.approx(0.75)
    assert found["position"][0]["share"]["value"] == pytest.approx(0.5)  # three of six shown first and preferred
    assert found["win_rates"][0]["share"]["number"] == 6  # the gold question is no policy's
    assert found["raters"][0]["gold"]["value"] == 1.0
    assert (found["labels"], found["pace"]["now"], found["pace"]["active"]) == (8, 8, 2)
    assert found["queue"][0]["open"] == 3


def test_ratings_have_agreement_and_a_ceiling(store, dashboard):
    rng = np.random.default_rng(0)
    items = [Item("rate", f"p{n}", (Answer("x" * (n + 1)),), wanted=9) for n in range(40)]
    store.add_items(items)
    for number, item in enumerate(items):
        for rater in ("ann", "bob"):
            score = int(np.clip(1 + number / 10 + rng.integers(-1, 2), 1, 5))
            say(store, item, rater, {"score": score})
    found = dashboard.figures()

    (agreement,), (ceiling,) = found["agreement"], found["ceiling"]
    assert agreement["kind"] == "rate"
    assert agreement["same"]["value"] < agreement["close"]["value"] <= 1
    assert ceiling["value"] == pytest.approx(agreement["alpha"]["value"] ** 0.5)
    assert found["length"]["ratings"]["value"] > 0.7


def test_policies_are_rated_and_both_bad_is_told(store, dashboard):
    rated = [Item("rate", f"p{n}", (Answer(f"t{n}", ("sft", "ppo")[n % 2], "v1"),), wanted=9) for n in range(4)]
    pairs = [compare(number) for number in range(2)]
    store.add_items([*rated, *pairs])
    for item, score in zip(rated, (1, 5, 3, 4), strict=True):
        say(store, item, "ann", {"score": score})
    say(store, pairs[0], "ann", {"preferred": None, "both_bad": True})
    say(store, pairs[1], "ann", {"preferred": 1})
    found = dashboard.figures()

    assert [(each["policy"], each["share"]["value"]) for each in found["mean_ratings"]] == [
        ("ppo@v1", 0.875),
        ("sft@v1", 0.25),
    ]
    (win,) = found["win_rates"]
    assert (win["both_bad"], win["ties"], win["share"]["value"]) == (0.5, 0.5, 0.75)
    store.undo("ann")
    assert dashboard.figures()["win_rates"][0]["both_bad"] == 1.0


def test_undone_labels_leave_the_figures(store, dashboard):
    item = compare(0)
    store.add_items([item])
    say(store, item, "ann", {"preferred": 1})
    assert dashboard.figures()["labels"] == 1
    store.undo("ann")
    found = dashboard.figures()
    assert (found["labels"], found["win_rates"], found["raters"]) == (0, [], [])


def test_figures_are_computed_seldom(store, clock, monkeypatch):
    found = Dashboard(store.database, clock, patience=60)
    spans: list[tuple[float, float]] = []

    def compute() -> dict[str, Any]:
        begun = time.monotonic()
        time.sleep(0.01)
        spans.append((begun, time.monotonic()))
        return {"n": len(spans)}

    monkeypatch.setattr(found, "_compute", compute)
    monkeypatch.setattr(figures, "_LEAST_AGE_SECONDS", 0.0)
    while len(spans) < 3:
        assert found.figures()["n"] in (len(spans), len(spans) - 1)
        time.sleep(0.005)
    for (begun, ended), (again, _) in pairwise(spans):
        assert again - ended >= 19 * (ended - begun)  # work takes a twentieth of the time


def test_nobody_waits_for_figures(store, clock, monkeypatch):
    found = Dashboard(store.database, clock, patience=0.05)
    reading, done = threading.Event(), threading.Event()

    def compute():
        reading.set()
        assert done.wait(10)
        return {"labels": 3}

    monkeypatch.setattr(found, "_compute", compute)
    assert found.figures() == {"preparing": 0}
    assert reading.wait(10)
    done.set()
    while "preparing" in (given := found.figures()):
        time.sleep(0.01)
    assert given == {"labels": 3}


def test_figures_come_back_after_an_error(store, clock, monkeypatch):
    found = Dashboard(store.database, clock, patience=60)
    with monkeypatch.context() as broken:
        broken.setattr(found, "_compute", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            found.figures()
    found._next = 0.0
    assert found.figures()["labels"] == 0
