from typing import Any

import numpy as np
import pytest
from scipy import stats

from reward_models.benchmarking import Pairs, SuiteData, ratings_suite, simulated_suite
from reward_models.benchmarking.measures.accuracy import suite_accuracy
from reward_models.benchmarking.measures.comparison import agreement, compare_models, holm, independent_pairs, mcnemar
from reward_models.benchmarking.measures.length import length_bias, partial_correlation
from textenv.statistics import ClusterBootstrap


def boot(suite, resamples=300):
    return ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=resamples)


def test_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(0)
    z = rng.normal(size=500)
    x, y = z + rng.normal(size=500), 0.5 * z + rng.normal(size=500)
    r: Any = np.corrcoef([x, y, z])
    left: Any = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    assert partial_correlation(r[0, 1], r[0, 2], r[1, 2]) == pytest.approx(float(np.asarray(np.corrcoef(left))[0, 1]))


def test_length_bias_of_the_length_itself_and_of_the_gold_values():
    rng = np.random.default_rng(0)
    texts = [" ".join(["w"] * int(rng.integers(1, 30))) + f" {i}" for i in range(120)]
    words = np.array([len(text.split()) for text in texts], dtype=float)
    gold = 0.05 * words + rng.normal(size=120)
    suite = ratings_suite("s", "S", ["p"] * 120, texts, gold[:, None].tolist())
    by_length = length_bias(words, suite, boot(suite))
    assert by_length.correlation.value == pytest.approx(1)
    assert by_length.longer_right.value == 1
    assert by_length.longer_wrong.value == 0
    assert by_length.prefers_longer.value == 1
    by_gold = length_bias(gold, suite, boot(suite))
    assert by_gold.correlation.value == pytest.approx(np.corrcoef(gold, words)[0, 1])
    assert by_gold.gold_correlation.value == pytest.approx(by_gold.correlation.value)
    assert by_gold.partial.value == pytest.approx(0, abs=1e-6)
    assert by_gold.difference.value == 0


def test_partial_correlation_separates_bias_from_quality_that_goes_with_length():
    rng = np.random.default_rng(1)
    texts = [" ".join(["w"] * int(rng.integers(1, 30))) + f" {i}" for i in range(400)]
    words = np.array([len(text.split()) for text in texts], dtype=float)
    gold = 0.2 * words + rng.normal(size=400)
    suite = ratings_suite("s", "S", ["p"] * 400, texts, gold[:, None].tolist())
    fair, biased = gold + rng.normal(size=400), gold + 0.2 * words + rng.normal(size=400)
    fair_bias, found = length_bias(fair, suite, boot(suite)), length_bias(biased, suite, boot(suite))
    assert fair_bias.correlation.low > 0.5
    assert fair_bias.partial.low < 0 < fair_bias.partial.high
    assert found.partial.low > 0.3


def test_within_prompts_the_prompts_own_level_does_not_count():
    suite: Any = simulated_suite(responses=4)
    level = 100.0 * suite.clusters
    plain, shifted = (length_bias(suite.gold + extra, suite, boot(suite)) for extra in (0, level))
    assert plain.correlation.value == pytest.approx(shifted.correlation.value, abs=1e-9)


@pytest.mark.parametrize(("a", "b", "expected"), [(0, 0, 1.0), (1, 9, 22 / 1024), (5, 5, 1.0)])
def test_mcnemar_by_hand(a, b, expected):
    assert mcnemar(a, b) == pytest.approx(expected)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)


def test_independent_pairs_share_no_prompt_and_use_most_of_them():
    rng = np.random.default_rng(0)
    suite = ratings_suite("s", "S", ["p"] * 60, [str(i) for i in range(60)], rng.normal(size=(60, 1)).tolist())
    chosen = independent_pairs(suite, rng)
    used = np.concatenate([suite.pairs.better[chosen], suite.pairs.worse[chosen]])
    assert len(set(used.tolist())) == len(used) >= 50
    within = simulated_suite(responses=4)
    assert len(independent_pairs(within, rng)) == 64


def test_a_better_model_is_found_better_and_equal_ones_are_not():
    suite: Any = simulated_suite(responses=6)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, len(suite)))
    scores = {"good": suite.gold + 0.3 * noise[0], "bad": noise[1], "as bad": noise[2]}
    bootstrap = boot(suite, 999)
    accuracies = {name: suite_accuracy(own, suite, bootstrap) for name, own in scores.items()}
    found = {(c.first, c.second): c for c in compare_models(scores, accuracies, suite, rng)}
    clear, none = found["good", "bad"], found["bad", "as bad"]
    assert clear.p == 0.002
    assert clear.p_holm == pytest.approx(0.006)
    assert clear.p_mcnemar < 0.01
    assert clear.difference.low > 0.2
    assert none.p > 0.05
    assert none.difference.low <= 0 < none.difference.high


def test_paired_p_values_are_uniform_where_models_are_equal():
    suite: Any = simulated_suite(responses=3)
    rng = np.random.default_rng(5)
    p_values = []
    for _ in range(60):
        scores = {"a": suite.gold + 2 * rng.normal(size=len(suite)), "b": suite.gold + 2 * rng.normal(size=len(suite))}
        bootstrap = ClusterBootstrap(suite.clusters, rng, resamples=199)
        accuracies = {name: suite_accuracy(own, suite, bootstrap) for name, own in scores.items()}
        p_values.append(compare_models(scores, accuracies, suite, rng)[0].p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_agreement_by_hand():
    suite = SuiteData("s", "S", ("p",) * 3, ("a", "b", "c"), Pairs.of([0, 1], [1, 2]), np.arange(3))
    table = agreement({"x": np.array([2.0, 1, 0]), "y": np.array([2.0, 1, 1]), "z": np.zeros(3)}, suite)
    assert table["x"] == {"x": 1, "y": 0.75, "z": 0.5}
    assert table["z"]["y"] == 0.75
    assert table["z"]["z"] == 1
