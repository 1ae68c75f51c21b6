from __future__ import annotations

import numpy as np
import pytest

from textenv.errors import ShapeError
from textenv.feedback.measures.win_rates import mean_ratings, win_rates


def test_win_rates_hand_worked():
    # a beats b twice and ties once (said from either side); c beats a once; b against itself says nothing.
    found = win_rates([1, 0, 0.5, 0, 1], [0, 1, 1, 0, 1], [1, 0, 0, 2, 1], [10, 10, 11, 12, 13], ["a", "b", "c"])

    assert [(each.first, each.second) for each in found] == [("a", "b"), ("c", "a")]
    best, other = found
    assert (best.share.value, best.share.n, best.share.clusters) == (pytest.approx(2.5 / 3), 3, 2)
    assert best.ties == pytest.approx(1 / 3)
    assert other.share.value == 1.0
    assert other.share.low < 0.3  # one judgement proves little


def test_win_rates_are_what_the_slow_reference_says():
    rng = np.random.default_rng(0)
    n = 500
    values, first, second = rng.choice([0, 0.5, 1], size=n), rng.integers(0, 4, n), rng.integers(0, 4, n)
    prompts = rng.integers(0, 80, n)
    found = {(each.first, each.second): each for each in win_rates(values, first, second, prompts, "wxyz")}
    for (one, other), each in found.items():
        wins = [
            v if "wxyz"[a] == one else 1 - v
            for v, a, b in zip(values, first, second, strict=True)
            if {"wxyz"[a], "wxyz"[b]} == {one, other}
        ]
        assert each.share.value == pytest.approx(np.mean(wins))
        assert each.share.value >= 0.5
        assert each.share.n == len(wins)
    assert len(found) == 6


def test_interval_knows_that_raters_of_one_prompt_see_the_same_answers():
    rng = np.random.default_rng(1)
    covered, width = 0, []
    for _ in range(200):
        better = rng.random(60) < 0.65  # the first policy's answer to a prompt is better, and everybody sees it
        values = np.repeat(better, 5).astype(float)
        (found,) = win_rates(values, np.zeros(300, int), np.ones(300, int), np.repeat(np.arange(60), 5), ["a", "b"])
        covered += found.share.low <= 0.65 <= found.share.high
        width.append(found.share.high - found.share.low)
    assert covered / 200 >= 0.92
    assert np.mean(width) > 0.2  # five times as many independent judgements would give 0.11


def test_both_bad_is_counted_per_pair_of_policies():
    args = ([0.5, 1, 0, 1], [0, 1, 0, 0], [1, 0, 2, 2], [0, 1, 2, 3], ["a", "b", "c"])
    found = {(each.first, each.second): each.both_bad for each in win_rates(*args, both_bad=[True, False, False, True])}

    assert found == {("b", "a"): 0.5, ("a", "c"): 0.5}
    assert [each.both_bad for each in win_rates(*args)] == [0.0, 0.0]


def test_mean_ratings_hand_worked():
    found = mean_ratings([0.0, 1.0, 0.25, 0.75, 1.0], [1, 1, 0, 1, 2], [5, 5, 6, 7, 8], ["a", "b", "c", "never rated"])

    assert [each.policy for each in found] == ["c", "b", "a"]
    assert [each.share.value for each in found] == pytest.approx([1.0, 1.75 / 3, 0.25])
    assert (found[1].share.n, found[1].share.clusters) == (3, 2)
    assert found[0].share.low < 0.3  # one rating proves little
    assert mean_ratings([], [], [], ["a"]) == mean_ratings([1.0], [0], [0], [""]) == []


def test_interval_of_a_mean_rating_covers_the_truth():
    rng = np.random.default_rng(2)
    covered, truth = 0, 0.6
    for _ in range(300):
        worth = np.clip(truth + np.repeat(rng.choice([-0.3, 0.3], 40), 3) + rng.choice([-0.1, 0.1], 120), 0, 1)
        (found,) = mean_ratings(worth, np.zeros(120, int), np.repeat(np.arange(40), 3), ["a"])
        covered += found.share.low <= truth <= found.share.high
    assert covered / 300 >= 0.92


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="shapes disagree"):
        mean_ratings([1.0], [0, 1], [0], ["a"])
    with pytest.raises(ShapeError, match="shapes disagree"):
        win_rates([1.0], [0, 1], [1, 0], [0, 0], ["a", "b"])
