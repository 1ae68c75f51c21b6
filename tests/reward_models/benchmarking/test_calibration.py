from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking import Pairs, SuiteData
from reward_models.benchmarking.measures.calibration import (
    _error_interval,
    calibration,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from textenv.statistics import ClusterBootstrap


def pairs_suite(logits, rng, *, soft=False):
    """One pair per prompt; who is better is drawn with the probability that the logits say."""
    count = len(logits)
    chance = 1 / (1 + np.exp(-logits))
    first = rng.random(count) < chance
    share = np.maximum(chance, 1 - chance) if soft else None
    a, b = np.arange(count), np.arange(count) + count
    flip = first if not soft else chance > 0.5
    pairs = Pairs.of(np.where(flip, a, b), np.where(flip, b, a), share=share)
    texts = tuple(str(i) for i in range(2 * count))
    suite = SuiteData("s", "S", ("p",) * (2 * count), texts, pairs, np.tile(np.arange(count), 2))
    return suite, np.concatenate([logits, np.zeros(count)])


def measured(suite, scores, resamples=200) -> Any:
    bootstrap = ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=resamples)
    return calibration(scores, suite, bootstrap, np.random.default_rng(1))


def test_calibration_error_by_hand():
    confidence = np.array([0.55, 0.55, 0.95, 0.95])
    agreement = np.array([1.0, 0.0, 1.0, 1.0])
    # |0.5 − 0.55| · ½ + |1 − 0.95| · ½
    assert calibration_error(confidence, agreement, np.linspace(0.5, 1, 11)) == pytest.approx(0.05)


def test_negative_log_likelihood_by_hand():
    found = negative_log_likelihood(np.array([0.0, np.log(3)]), np.array([1.0, 0.5]))
    assert found == pytest.approx([np.log(2), -0.5 * np.log(0.75) - 0.5 * np.log(0.25)])


def test_the_temperature_of_overconfident_scores_is_found():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(1.5 * rng.normal(size=20_000), rng)
    found = measured(suite, 4 * scores)
    assert found.temperature == pytest.approx(4, rel=0.06)
    assert found.raw.ece.value > 0.1
    assert found.fitted.ece.value < 0.02
    assert found.fitted.nll.value < found.raw.nll.value


def test_soft_labels_of_a_true_model_have_no_error():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(rng.normal(size=2000), rng, soft=True)
    found = measured(suite, scores)
    assert found.temperature == pytest.approx(1, rel=1e-3)
    assert found.raw.ece.value == pytest.approx(0, abs=1e-9)
    assert found.raw.brier.value == pytest.approx(0, abs=1e-9)


def test_a_constant_model_is_a_coin():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(rng.normal(size=500), rng)
    found = measured(suite, 0 * scores)
    assert found.temperature == 1
    assert found.fitted.nll.value == pytest.approx(np.log(2))
    assert found.fitted.brier.value == 0.25
    assert found.fitted.ece.value == found.fitted.ece_mass.value == 0


def test_reliability_bins_hold_all_pairs_of_the_second_half_and_their_agreement():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(rng.normal(size=1000), rng)
    found = measured(suite, scores).fitted
    assert sum(row.pairs for row in found.bins) == found.nll.n == 500
    assert [row.confidence for row in found.bins] == sorted(row.confidence for row in found.bins)
    low = sum(row.agreement.low <= row.confidence <= row.agreement.high for row in found.bins)
    assert low >= 8


def test_the_interval_of_the_error_lies_around_it():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(rng.normal(size=3000), rng)
    ece = measured(suite, 3 * scores).raw.ece
    assert ece.low < ece.value < ece.high


def test_the_interval_of_a_calibrated_models_error_begins_at_zero_and_its_value_lies_near():
    # Of absolute gaps noise alone makes an error: 0.07 on average here.
    covered, values = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        suite, scores = pairs_suite(1.5 * rng.normal(size=400), rng)
        found = measured(suite, scores, resamples=200).raw.ece
        covered += found.low == 0
        values.append(found.value)
    assert covered >= 36
    assert np.mean(values) < 0.035
    assert np.median(values) < 0.025


def test_a_model_that_is_sure_and_right_has_an_error_of_nearly_nothing():
    rng = np.random.default_rng(0)
    suite, scores = pairs_suite(np.full(60, 9.0), rng)
    found = measured(suite, scores).raw.ece
    assert (found.low, found.value) == pytest.approx((0, 0), abs=1e-3)


def test_one_cluster_gives_the_error_and_no_interval():
    gaps, shares = np.array([0.1, -0.05]), np.array([0.5, 0.5])
    found = _error_interval(gaps, shares, np.tile(gaps, (9, 1)), 20, 1)
    assert found.value == pytest.approx(0.15)
    assert np.isnan([found.low, found.high]).all()


def test_halves_without_pairs_give_nothing():
    suite, scores = pairs_suite(np.array([1.0]), np.random.default_rng(0))
    assert measured(suite, scores) is None


def test_all_differences_zero_have_temperature_one():
    assert fit_temperature(np.zeros(3), np.ones(3)) == 1
