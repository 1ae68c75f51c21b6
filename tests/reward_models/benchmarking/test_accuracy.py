from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking import Pairs, SuiteData, ratings_suite
from reward_models.benchmarking.measures.accuracy import correctness, suite_accuracy
from reward_models.metrics import pair_accuracy
from textenv.errors import DataError
from textenv.statistics import ClusterBootstrap, mid_p_interval


def suite_of(pairs, n, **more):
    texts = tuple(f"r{i}" for i in range(n))
    return SuiteData("s", "S", ("p",) * n, texts, pairs, np.arange(n), **more)


def boot(suite, resamples=300):
    return ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=resamples)


def rated(n=150, seed=0) -> Any:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    raters = [np.clip(np.rint(t + rng.normal(size=6)), -4, 4).tolist() for t in truth]
    suite = ratings_suite("s", "S", ["p"] * n, [str(i) for i in range(n)], raters)
    return suite, truth + 0.7 * rng.normal(size=n)


def test_accuracy_by_hand_ties_and_missing_scores_count_half():
    pairs = Pairs.of([0, 0, 1, 2], [1, 2, 2, 3], gap=[0.2, 0.7, 1.5, 3.0], subset=["a", "a", "b", "b"])
    scores = np.array([3.0, 3.0, 1.0, np.nan])
    assert correctness(scores, pairs).tolist() == [0.5, 1, 1, 0.5]
    suite = suite_of(pairs, 4)
    found = suite_accuracy(scores, suite, boot(suite))
    assert found.overall.value == 0.75
    assert found.tie_rate.value == 0.5
    assert found.strict.value == 0.5
    assert {gap: figure.value for gap, figure in found.by_gap.items()} == {0: 0.75, 0.5: 2.5 / 3, 1: 0.75, 2: 0.5}
    assert {name: figure.value for name, figure in found.by_subset.items()} == {"a": 0.75, "b": 0.75}


def test_a_constant_model_gets_chance():
    suite, _ = rated()
    found = suite_accuracy(np.zeros(len(suite)), suite, boot(suite))
    assert found.overall.value == 0.5
    assert found.overall.low < 0.5 < found.overall.high  # that all pairs seen are ties does not say that all are
    assert found.tie_rate.value == 1
    assert found.strict.value == 0


def test_values_equal_those_of_the_slow_reference_and_intervals_agree():
    suite, scores = rated()
    slow = pair_accuracy(scores, suite.gold, np.random.default_rng(0), resamples=2000)
    fast = suite_accuracy(scores, suite, boot(suite, 2000))
    for gap, expected in slow.items():
        found = fast.by_gap[gap]
        assert found.value == pytest.approx(expected.value)
        assert found.n == expected.n
        assert found.low == pytest.approx(expected.low, abs=0.012)
        assert found.high == pytest.approx(expected.high, abs=0.012)


def test_pairs_of_one_prompt_are_resampled_together():
    pairs = Pairs.of([0, 2], [1, 3])
    texts = tuple("abcd")
    together = SuiteData("s", "S", ("p",) * 4, texts, pairs, np.zeros(4, dtype=np.int64))
    found = suite_accuracy(np.array([1.0, 0.0, 0.0, 1.0]), together, boot(together))
    assert found.overall.value == 0.5
    assert (found.overall.low, found.overall.high) == pytest.approx(mid_p_interval(0.5, 1))  # worth one value


def test_a_suite_checks_its_parts():
    with pytest.raises(DataError, match="has 2 prompts and 3 responses"):
        SuiteData("s", "S", ("p", "p"), ("a", "b", "c"), Pairs.of([0], [1]), np.zeros(2, dtype=np.int64))
    with pytest.raises(DataError, match="names an item beyond"):
        suite_of(Pairs.of([0], [5]), 2)
