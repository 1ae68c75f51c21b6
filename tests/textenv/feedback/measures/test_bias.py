from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.feedback.measures.bias import length_bias, position_bias, rank_correlation


def test_position_bias_hand_worked():
    # Shown first and preferred; shown second and preferred; shown second and not; a tie.
    found = position_bias([1, 1, 0, 0.5], [True, False, False, True])

    assert found.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found.n == 4


def test_position_bias_finds_the_bias_of_simulated_raters_whatever_the_answers_are_worth():
    rng = np.random.default_rng(0)
    n, bias = 20_000, 0.5
    worth, shown = rng.normal(loc=1.0, size=n), rng.random(n) < 0.5
    logit = worth + np.where(shown, bias, -bias)
    values = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    truth = np.mean((1 / (1 + np.exp(-worth - bias)) + 1 / (1 + np.exp(worth - bias))) / 2)
    found = position_bias(values, shown)
    fair = position_bias((rng.random(n) < 1 / (1 + np.exp(-worth))).astype(float), shown)

    assert found.low <= truth <= found.high
    assert found.low > 0.5
    assert fair.low <= 0.5 <= fair.high


def test_pairs_of_one_ranking_count_as_one_cluster():
    found = position_bias(np.ones(60), np.ones(60, bool), np.repeat(np.arange(10), 6))

    assert (found.n, found.clusters) == (60, 10)


def test_length_bias_hand_worked():
    # Longer wins, longer loses, equal lengths (passed over), twice as long wins by a tie, five times as long wins.
    found = length_bias([1, 1, 1, 0.5, 0], [11, 10, 7, 20, 10], [10, 12, 7, 10, 50])

    assert found.longer.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert [(low, high, share.value) for low, high, share in found.classes] == [
        (1.0, 1.25, 0.5),
        (2.0, 3.0, 0.5),
        (3.0, math.inf, 1.0),
    ]


def test_length_bias_rises_with_the_ratio_where_raters_like_length():
    rng = np.random.default_rng(1)
    a, b = rng.integers(20, 400, size=(2, 10_000))
    likes = 1 / (1 + np.exp(-1.2 * np.log(a / b)))
    found = length_bias((rng.random(10_000) < likes).astype(float), a, b)
    shares = [share.value for _, _, share in found.classes]

    assert shares == sorted(shares)
    for low, high, share in found.classes:
        ratio = np.maximum(a, b) / np.minimum(a, b)
        kept = (ratio >= low) & (ratio < high) & (a != b)
        truth = np.where(a > b, likes, 1 - likes)[kept].mean()
        assert share.value == pytest.approx(truth, abs=0.03)


def test_nothing_without_unequal_lengths():
    found = length_bias([1.0], [5], [5])

    assert found.longer.n == 0
    assert found.classes == []


def test_rank_correlation_hand_worked():
    # Ranks 1, 2.5, 2.5, 4, 5 against 2, 1, 3, 4, 5: Pearson's r of the ranks.
    r, low, high = rank_correlation([1, 2, 2, 4, 9], [20, 10, 30, 40, 50])[:3]
    expected = 8.0 / math.sqrt(9.5 * 10)

    assert r == pytest.approx(expected)
    assert math.atanh(high) - math.atanh(r) == pytest.approx(1.959964 * math.sqrt((1 + r * r / 2) / 2), rel=1e-6)
    assert low < r < high < 1
    assert all(math.isnan(each) for each in rank_correlation([1, 2, 3], [1, 2, 3])[:3])
    assert all(math.isnan(each) for each in rank_correlation([1, 1, 1, 1], [1, 2, 3, 4])[:3])


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 9, size=(2, 300))

    assert rank_correlation(x, y)[0] == pytest.approx(stats.spearmanr(x, y).statistic)
