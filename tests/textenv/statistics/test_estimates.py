from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.errors import ConfigError, ShapeError
from textenv.statistics import (
    bootstrap_interval,
    group_means,
    mean_estimate,
    mean_interval,
    paired_difference,
    ratio_estimate,
    student_quantile,
)


def test_mean_estimate_by_hand():
    found = mean_estimate([1, 2, 3, 6])
    assert (found.value, found.units) == (3, 4)
    assert found.standard_error == pytest.approx(np.sqrt(14 / 3 / 4))
    even = mean_estimate([1, 3, 5])
    reach = 4.30265 * even.standard_error  # Student's table, two degrees of freedom
    assert even.interval(0.95)[:3] == pytest.approx((3, 3 - reach, 3 + reach), rel=1e-4)
    assert student_quantile(0.95, 3) == pytest.approx(3.18245, abs=1e-5)
    assert np.isnan(mean_estimate([1]).standard_error)


@pytest.mark.parametrize("units", [3, 50])
def test_students_intervals_cover_as_often_as_they_say(units):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        found = mean_estimate(rng.normal(1, 2, units)).interval(0.9)
        hits += found.low < 1 < found.high
    assert 430 < hits < 470


def test_bootstrap_of_the_mean_agrees_with_students_interval():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, np.random.default_rng(1), resamples=4000)
    expected = mean_estimate(values).interval()
    assert (low, high) == pytest.approx(expected[1:3], abs=0.01)


def test_bootstrap_of_another_statistic_and_reproducible():
    values = np.random.default_rng(0).exponential(size=300)
    ask = lambda: bootstrap_interval(values, np.random.default_rng(1), statistic=lambda drawn: np.median(drawn, 1))  # noqa: E731
    low, high = ask()
    assert low < np.median(values) < high
    assert ask() == (low, high)


def test_bootstrap_of_groups_is_wider_where_their_members_agree():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    values = rng.normal(size=30)[groups] + 0.1 * rng.normal(size=600)
    narrow = bootstrap_interval(values, np.random.default_rng(1))
    wide = bootstrap_interval(values, np.random.default_rng(1), groups=groups)
    assert (wide[1] - wide[0]) > 3 * (narrow[1] - narrow[0])
    np.testing.assert_allclose(group_means([1, 3, 10], np.array(["b", "b", "a"], object)), [10, 2])


def test_ratio_estimate_equals_its_spread_over_repetitions():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        y = rng.integers(1, 20, 100)
        found.append(ratio_estimate(y * 0.5 + rng.normal(size=100), y))
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([f.standard_error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.12)


def test_paired_difference_uses_the_pairing():
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 10, 200)
    found = paired_difference(prompts, prompts + 0.3 + 0.1 * rng.normal(size=200))
    assert found.value == pytest.approx(0.3, abs=0.05)
    assert found.standard_error < 0.02


def test_the_long_tail_gets_the_longer_end():
    value, low, high = mean_estimate([1, 2, 3, 6]).interval()[:3]
    # Hall's transformation by hand: k = skewness / √n, and its value at the ends is ± Student's quantile.
    error, k = math.sqrt(14 / 3 / 4), (-8 - 1 + 0 + 27) / 4 / 3.5**1.5 / 2
    for end, quantile in ((low, 3.18245), (high, -3.18245)):
        t = (value - end) / error
        assert t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6 == pytest.approx(quantile, rel=1e-4)
    assert high - value > value - low


def test_values_that_do_not_vary_say_nothing_of_their_error():
    assert np.isnan(mean_estimate([2.0, 2.0, 2.0]).interval()[1:3]).all()
    assert np.isnan(bootstrap_interval([0.3] * 9, np.random.default_rng(0))).all()
    assert mean_interval([1, 1, 1, 1]).low == pytest.approx(0.05 ** (1 / 4))
    assert bootstrap_interval([1.0] * 4, np.random.default_rng(0)) == pytest.approx((0.05**0.25, 1))


def test_answers_to_one_prompt_count_once_and_the_mean_is_that_of_all_answers():
    alone = mean_interval([1.0, 2.0, 4.0])
    copies = mean_interval([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], ["a", "a", "b", "b", "c", "c"])
    assert copies[:3] == pytest.approx(alone[:3])
    assert (copies.n, copies.clusters) == (6, 3)
    assert mean_interval([1.0, 1.0, 4.0], ["a", "a", "b"]).value == 2


def test_a_ratio_has_the_jackknifes_error():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=12), rng.exponential(size=12)
    without = np.array([(x.sum() - x[i]) / (y.sum() - y[i]) for i in range(12)])
    jackknife = math.sqrt(11 / 12 * ((without - x.sum() / y.sum()) ** 2).sum())
    assert ratio_estimate(x, y).standard_error == pytest.approx(jackknife, rel=0.02)


def test_bad_arguments_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ShapeError, match=r"must have shape \(n,\) with n ≥ 1, got \(0,\)"):
        mean_estimate([])
    with pytest.raises(ShapeError, match="`second` has shape"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match="`numerators` has shape"):
        ratio_estimate([1.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match="`groups` has shape"):
        bootstrap_interval([1.0, 2.0], rng, groups=[1])
    with pytest.raises(ConfigError, match="`confidence` must lie between"):
        bootstrap_interval([1.0], rng, confidence=1.0)
    with pytest.raises(ConfigError, match="`resamples` must be ≥ 1"):
        bootstrap_interval([1.0], rng, resamples=0)
