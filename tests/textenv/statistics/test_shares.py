from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from textenv.errors import ConfigError
from textenv.statistics import (
    Interval,
    clustered_share,
    mid_p_interval,
    student_quantile,
    two_way_error,
    wilson_interval,
)


def test_wilson_hand_worked():
    # 8 of 10: (0.8 + 3.8415/20) / 1.38415 ± 1.96 sqrt(0.016 + 0.0096) / 1.38415
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_wilson_ends_solve_the_score_equation():
    for value, count in [(0.3, 17), (0.9, 5), (0.5, 1000)]:
        for end in wilson_interval(value, count):
            assert abs(value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), rel=1e-5)


@pytest.mark.parametrize(("value", "count", "confidence"), [(1.1, 5, 0.95), (0.5, 0, 0.95), (0.5, 5, 1.0)])
def test_wilson_says_what_it_needs(value, count, confidence):
    with pytest.raises(ConfigError, match="need 0 ≤ value ≤ 1"):
        wilson_interval(value, count, confidence)


@pytest.mark.parametrize(("yes", "count"), [(0, 4), (4, 4), (1, 4), (8, 10), (3, 60), (80, 80), (1, 1)])
def test_mid_p_ends_are_those_of_the_exact_test(yes: int, count: int):
    low, high = mid_p_interval(yes / count, count)

    def at_most(share: float) -> float:
        return float(stats.binom.cdf(yes - 1, count, share) + 0.5 * stats.binom.pmf(yes, count, share))

    assert at_most(low) == pytest.approx(0.975) if yes else low == 0
    assert at_most(high) == pytest.approx(0.025) if yes < count else high == 1


@pytest.mark.parametrize("count", [4, 10, 30, 100])
def test_mid_p_holds_every_share_often_enough(count: int):
    ends = np.array([mid_p_interval(k / count, count) for k in range(count + 1)])
    for truth in np.linspace(0.005, 0.995, 199):
        inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        assert stats.binom.pmf(np.arange(count + 1), count, truth)[inside].sum() > 0.915


def test_independent_values_have_the_exact_interval():
    found = clustered_share([1] * 8 + [0] * 2)

    assert found == Interval(0.8, *mid_p_interval(0.8, 10), 10, 10)


def test_what_one_rater_says_belongs_together():
    rng = np.random.default_rng(0)
    raters, prompts = np.repeat(np.arange(6), 50), np.arange(300)
    values = (rng.random(300) < np.array([0.2, 0.4, 0.6, 0.7, 0.9, 1.0])[raters]).astype(float)
    alone, among = clustered_share(values, prompts), clustered_share(values, prompts, raters=raters)
    assert among.value == alone.value
    assert among.high - among.low > 3 * (alone.high - alone.low)
    assert clustered_share(values, prompts, raters=np.zeros(300)) == alone
    error, known_from = two_way_error(values, prompts, raters)
    assert error == pytest.approx(np.std([values[raters == r].mean() for r in range(6)], ddof=1) / 6**0.5, rel=0.05)
    assert 6 <= known_from < 12


def test_copies_in_clusters_count_once():
    values = np.array([1.0] * 8 + [0.0] * 2)
    found = clustered_share(np.repeat(values, 5), np.repeat(np.arange(10), 5))

    # SE² = 0.16 / 9 with copies as clusters, so that nine values are left; ten clusters know their spread roughly.
    effective = 9 * (1.959964 / student_quantile(0.95, 9)) ** 2
    assert (found.value, found.n, found.clusters) == (0.8, 50, 10)
    assert (found.low, found.high) == pytest.approx(mid_p_interval(0.8, effective))


def test_where_all_agree_the_clusters_count():
    found = clustered_share(np.ones(40), np.repeat(np.arange(4), 10))

    assert (found.low, found.high) == pytest.approx(mid_p_interval(1.0, 4))
    assert clustered_share(np.ones(40), np.zeros(40)).low == pytest.approx(mid_p_interval(1.0, 1)[0])


def test_nothing_is_known_without_values():
    assert clustered_share([]).n == 0
    assert math.isnan(clustered_share([]).value)


@pytest.mark.parametrize(("groups", "size", "truth"), [(5, 6, 0.7), (12, 6, 0.6), (40, 4, 0.9), (200, 3, 0.5)])
def test_the_interval_covers_the_truth(groups, size, truth):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        a = 2.0  # the clusters' own shares differ: Beta(a, b) with the mean `truth`
        own = rng.beta(a, a * (1 - truth) / truth, size=groups)
        values = (rng.random((groups, size)) < own[:, None]).astype(float)
        found = clustered_share(values.ravel(), np.repeat(np.arange(groups), size))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.99
