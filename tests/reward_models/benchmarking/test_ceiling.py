from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking import ratings_suite
from reward_models.benchmarking.measures.ceiling import human_ceiling, true_value_posterior
from reward_models.metrics import human_rater_accuracy
from textenv.errors import DataError
from textenv.statistics import ClusterBootstrap


def simulated(seed, *, n=120, raters=8, noise=1.0, bimodal=False) -> Any:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n) * 1.5
    if bimodal:
        truth = np.where(rng.random(n) < 0.5, -1.8, 1.6) + 0.6 * rng.normal(size=n)
    given = np.clip(np.rint(truth[:, None] + noise * rng.standard_normal((n, raters))), -6, 6)
    suite = ratings_suite("s", "S", ["p"] * n, [str(i) for i in range(n)], given.tolist())
    return suite, truth


def ceiling_of(suite, resamples=200):
    bootstrap = ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=resamples)
    return human_ceiling(suite, bootstrap, np.random.default_rng(1), draws=8)


@pytest.mark.parametrize(
    ("raters", "noise", "bimodal"),
    [(4, 1.0, False), (15, 1.0, False), (8, 2.0, False), (8, 1.0, True)],
    ids=["few-raters", "many-raters", "noisy", "bimodal"],
)
def test_the_interval_covers_what_the_truth_achieves(raters, noise, bimodal):
    covered, errors = 0, []
    for seed in range(20):
        suite, truth = simulated(seed, raters=raters, noise=noise, bimodal=bimodal)
        found = ceiling_of(suite).perfect[0.0]
        achieved = float(np.mean(truth[suite.pairs.better] > truth[suite.pairs.worse]))
        covered += found.low <= achieved <= found.high
        errors.append(found.value - achieved)
    assert covered >= 17
    assert abs(np.mean(errors)) < 0.01


def test_the_ceiling_rises_with_the_gap_and_lies_above_a_single_rater():
    suite, _ = simulated(0)
    found = ceiling_of(suite)
    assert found.perfect[0.0].value < found.perfect[0.5].value < found.perfect[1.0].value
    assert all(found.perfect[gap].value > found.rater[gap].value for gap in (0.0, 0.5, 1.0))


def test_a_single_rater_is_what_the_slow_reference_says():
    suite, _ = simulated(3)
    slow = human_rater_accuracy([[int(x) for x in item] for item in suite.raters], np.random.default_rng(1), draws=8)
    fast = ceiling_of(suite).rater
    for gap, expected in slow.items():
        assert fast[gap].value == pytest.approx(expected.value)
        assert fast[gap].low == pytest.approx(expected.low, abs=0.02)


def test_without_noise_the_truth_is_always_right():
    suite, _ = simulated(0, noise=0.0)
    assert ceiling_of(suite).perfect[0.0].value == pytest.approx(1.0, abs=1e-3)


def test_the_posterior_is_narrower_with_more_raters():
    spreads = []
    for raters in (3, 30):
        suite, _ = simulated(0, raters=raters)
        posterior = true_value_posterior(suite.raters)
        means = posterior.probability @ posterior.grid
        spreads.append(np.mean(np.sqrt(posterior.probability @ posterior.grid**2 - means**2)))
        assert posterior.probability.sum(1) == pytest.approx(np.ones(len(suite)))
    assert spreads[1] < 0.5 * spreads[0]


def test_single_ratings_are_needed_from_two_raters_each():
    suite = ratings_suite("s", "S", ["p", "p"], ["a", "b"], [[1.0], [2.0]])
    bootstrap = ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=2)
    with pytest.raises(DataError, match="no single ratings"):
        human_ceiling(suite, bootstrap, np.random.default_rng(0))
