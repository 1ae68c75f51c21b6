from __future__ import annotations

import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.feedback.measures.activity import Queue, pace, queue_state
from textenv.feedback.store import Label

DATABASES = BOTH


def test_pace_hand_worked():
    # Bars of ten minutes from the first label's to the present one; one label lies more than an hour back.
    now = 100 * 600.0 + 30
    found = pace([now - 4000, now - 1300, now - 1200, now], ["a", "a", "b", "a"], now)

    assert found.width == 600
    assert found.begins == [(93 + bar) * 600.0 for bar in range(8)]
    assert found.labels == [1, 0, 0, 0, 1, 1, 0, 1]
    assert found.per_hour[0] == 6
    assert (found.now, found.active) == (3, 2)


@pytest.mark.parametrize(
    ("days", "width"),
    [(0.1, 600), (1, 3600), (2.5, 3600), (5, 4 * 3600), (40, 86400), (300, 7 * 86400), (9000, 28 * 86400)],
)
def test_bars_widen_with_time_and_stay_few(days, width):
    now = 1_700_000_000.0
    found = pace([now - days * 86400, now], [0, 0], now)

    assert found.width == width
    assert len(found.begins) <= 72
    assert found.begins[-1] <= now < found.begins[-1] + width
    assert sum(found.labels) == (2 if days < 9000 else 1)


def test_pace_without_labels_or_after_a_long_rest():
    assert pace([], [], 1e9).labels == []
    found = pace([1e9], [0], 1e9 + 90_000)
    assert (found.now, found.active, sum(found.labels)) == (0, 0, 1)


def test_a_label_of_a_clock_that_runs_ahead_is_left_out():
    assert sum(pace([1e9, 1e9 + 50], [0, 0], 1e9).labels) == 1


def test_queue_counts_each_kind(store, clock, make_item):
    assert queue_state(store.database, clock.now) == []
    store.add_items([make_item("rank", number, wanted=2) for number in range(3)])
    store.add_items([make_item("compare", number) for number in range(4)])
    store.add_items([make_item("compare", 9, gold={"preferred": 0})])
    withdrawn, done = make_item("compare", 0).id, make_item("compare", 1).id
    store.close_items([withdrawn])
    store.save_label(Label("l", done, "ann", {"preferred": 1}))
    store.next_assignment("bob", kinds=("rank",))

    assert queue_state(store.database, clock.now) == [
        Queue("rank", open=3, done=0, withdrawn=0, leased=1, labels_left=6, gold=0),
        Queue("compare", open=2, done=1, withdrawn=1, leased=0, labels_left=2, gold=1),
    ]
    clock.now += 61
    assert queue_state(store.database, clock.now)[0].leased == 0
