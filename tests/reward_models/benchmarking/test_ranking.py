from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reward_models.benchmarking import ratings_suite, simulated_suite
from reward_models.benchmarking.measures.ranking import ranking as measured_ranking
from reward_models.benchmarking.measures.ranking import weighted_ranks
from textenv.statistics import ClusterBootstrap


def boot(suite, resamples=400):
    return ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=resamples)


stats: Any = scipy_stats  # its results are named tuples made at run time
ranking: Any = measured_ranking


def rated(n=80) -> Any:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=n)
    suite = ratings_suite("s", "S", ["p"] * n, [str(i) for i in range(n)], [[t] for t in truth.round(1)])
    return suite, (truth + rng.normal(size=n)).round(1)


def test_weighted_ranks_are_the_ranks_of_the_resample():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, size=12).astype(float)
    drawn = rng.integers(12, size=12)
    weights = np.bincount(drawn, minlength=12)[None].astype(np.float32)
    expected = stats.rankdata(values[np.repeat(np.arange(12), weights[0].astype(int))])
    found = np.repeat(weighted_ranks(values, weights)[0], weights[0].astype(int))
    assert found == pytest.approx(expected)


def test_correlations_over_texts_are_those_of_scipy_and_their_intervals_hold():
    suite, scores = rated()
    found = ranking(scores, suite, boot(suite))
    assert found.spearman.value == pytest.approx(stats.spearmanr(scores, suite.gold).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(scores, suite.gold).statistic)
    rng = np.random.default_rng(1)
    exact = []
    for _ in range(400):
        drawn = rng.integers(len(scores), size=len(scores))
        exact.append((stats.spearmanr(scores[drawn], suite.gold[drawn]).statistic,
                      stats.kendalltau(scores[drawn], suite.gold[drawn]).statistic))  # fmt: skip
    low, high = np.quantile(exact, [0.025, 0.975], axis=0)
    # Percentiles of few texts are too narrow, on the side of the longer tail above all.
    assert [found.spearman.low, found.kendall.low] == pytest.approx(low, abs=0.08)
    assert [found.spearman.high, found.kendall.high] == pytest.approx(high, abs=0.05)


def test_best_of_k_is_the_mean_over_all_subsets():
    suite, _ = rated(9)
    scores = np.random.default_rng(7).permutation(9).astype(float)
    found = ranking(scores, suite, boot(suite)).best_of[2]
    own, oracle = (
        np.mean([suite.gold[max(pair, key=lambda i: judged[i])] for pair in combinations(range(9), 2)])
        for judged in (scores, suite.gold)
    )
    assert found.value == pytest.approx((own - suite.gold.mean()) / (oracle - suite.gold.mean()))


def test_within_prompts_correlations_are_averaged_over_prompts():
    suite: Any = simulated_suite(responses=4)
    rng = np.random.default_rng(0)
    scores = suite.gold + rng.normal(size=len(suite))
    found = ranking(scores, suite, boot(suite))
    expected = [stats.kendalltau(scores[i : i + 4], suite.gold[i : i + 4]).statistic for i in range(0, len(suite), 4)]
    assert found.kendall.value == pytest.approx(np.nanmean(expected))
    assert found.kendall.low < found.kendall.value < found.kendall.high


@pytest.mark.parametrize("make", [lambda: rated()[0], lambda: simulated_suite(responses=4)], ids=["over", "within"])
def test_a_constant_model_ranks_nothing(make):
    suite = make()
    found = ranking(np.zeros(len(suite)), suite, boot(suite))
    assert (found.kendall.value, found.spearman.value) == (0, 0)
    assert np.isnan(found.kendall.low)
    assert found.best_of[2].value == pytest.approx(0, abs=1e-9)


def test_the_gold_values_themselves_are_perfect():
    suite: Any = simulated_suite(responses=4)
    found = ranking(suite.gold, suite, boot(suite))
    assert found.kendall.value == found.spearman.value == pytest.approx(1)
    assert found.best_of[4].value == pytest.approx(1)


def test_missing_scores_are_left_out():
    suite, scores = rated()
    some = np.where(np.arange(len(scores)) < 5, np.nan, scores)
    assert ranking(some, suite, boot(suite)).kendall.n == len(scores) - 5
    assert np.isnan(ranking(np.full(len(scores), np.nan), suite, boot(suite)).kendall.value)
