from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from textenv.feedback.measures.judgements import JudgementLog, Judgements, Labels, Pairs, Ratings
from textenv.feedback.measures.rater_quality import rater_quality
from textenv.feedback.store import Label


def of(store) -> dict[str, Any]:
    log = JudgementLog(store.database)
    log.update()
    return {each.name: each for each in rater_quality(log.judgements())}


def test_quality_hand_worked(store, make_item):
    items = [make_item("compare", number, wanted=9) for number in range(4)]
    gold = make_item("compare", 9, gold={"preferred": 0})
    store.add_items([*items, gold])
    said = {"ann": [0, 0, 0], "bob": [0, 0, 1], "cleo": [0, 1, None]}
    for rater, choices in said.items():
        for item, preferred in zip(items, choices, strict=False):
            label = Label(f"{rater}-{item.id}", item.id, rater, {"preferred": preferred}, seconds=2.0 + len(rater))
            store.save_label(label)
        right = {"preferred": 0 if rater != "cleo" else 1}
        store.save_label(Label(f"{rater}-gold", gold.id, rater, right, seconds=100.0))
    store.save_label(Label("skip", items[3].id, "bob", skipped="unclear"))
    found = of(store)

    assert [(found[name].labels, found[name].skips) for name in said] == [(4, 0), (4, 1), (4, 0)]
    assert found["ann"].seconds == 5.0
    assert (found["ann"].gold.value, found["cleo"].gold.value) == (1.0, 0.0)
    # ann: all others, one of two, none; bob: all, one of two, none; cleo: all, none, none.
    assert found["ann"].agreement.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["cleo"].agreement.value == pytest.approx(1 / 3)
    assert found["bob"].usual == pytest.approx((1.5 + 1.5 + 1) / 9)
    assert found["ann"].agreement.n == 3
    assert not any(each.below or each.one_sided for each in found.values())


def test_nothing_is_known_of_one_who_skipped_alone(store, make_item):
    item = make_item("rate", 0)
    store.add_items([item])
    store.save_label(Label("s", item.id, "ann", skipped="unclear"))
    found = of(store)["ann"]

    assert (found.labels, found.skips) == (0, 1)
    assert math.isnan(found.seconds)
    assert (found.gold.n, found.agreement.n, found.first_shown.n) == (0, 0, 0)
    assert not found.below
    assert not found.one_sided


def simulated(seed: int, guesses: set[int], one_sided: set[int], raters: int = 8, items: int = 200) -> Judgements:
    """Raters who see the better answer nine times in ten, some who guess, some who take what is shown first."""
    rng = np.random.default_rng(seed)
    rater, item = (each.ravel() for each in np.meshgrid(np.arange(raters), np.arange(items)))
    kept = rng.random(len(rater)) < 0.5
    rater, item = rater[kept], item[kept]
    n = len(rater)
    better, shown = rng.integers(0, 2, items)[item], (rng.random(n) < 0.5).astype(float)
    value = np.where(rng.random(n) < 0.9, better, 1 - better).astype(float)
    value = np.where(np.isin(rater, list(guesses)), rng.integers(0, 2, n), value)
    value = np.where(np.isin(rater, list(one_sided)) & (rng.random(n) < 0.7), shown, value)
    zeros, none = np.zeros(n, np.int64), np.empty(0, np.int64)
    labels = Labels(rater, item, zeros + 3, np.ones(n), np.ones(n), zeros > 0, zeros > 0, np.full(n, np.nan))
    pairs = Pairs(
        np.arange(n), rater, zeros + 3, item, item, item, value, zeros > 0, shown, zeros, zeros, zeros, zeros
    )  # fmt: skip
    ratings = Ratings(none, none, none, none, none, np.empty(0), none, none)
    return Judgements(labels, pairs, ratings, tuple(map(str, range(raters))), ("policy",))


def test_guessing_and_one_sided_raters_are_found():
    found = {int(each.name): each for each in rater_quality(simulated(0, guesses={3}, one_sided={5}))}

    assert {name for name, each in found.items() if each.below} == {3, 5}
    assert {name for name, each in found.items() if each.one_sided} == {5}
    assert found[5].first_shown.value == pytest.approx(0.85, abs=0.07)  # 0.7 + 0.3 · ½


def test_good_raters_are_seldom_named_wrongly():
    named = 0
    for seed in range(60):
        named += any(each.below or each.one_sided for each in rater_quality(simulated(seed, set(), set())))
    assert named <= 10  # at most about 5 % for each of the two marks
