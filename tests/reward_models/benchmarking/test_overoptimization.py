from itertools import combinations
from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking.overoptimization.curves import best_of_n_path, policy_path
from reward_models.benchmarking.overoptimization.fits import fit_form, least_squares, peak_of, value_of
from reward_models.benchmarking.overoptimization.proxy import WordCountModel, noisy_comparisons
from reward_models.benchmarking.overoptimization.world import gold_scores, prompts, review
from reward_models.benchmarking.suites.pool import PoolSuite, generator_pool
from reward_models.labels import Comparison
from textenv.errors import ConfigError, ShapeError


def test_best_of_n_equals_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    curve = best_of_n_path(proxy, gold, rng, sizes=range(1, 8), resamples=20)
    scaled = (gold - gold.mean()) / gold.std()
    for n, found in zip(curve.steps, curve.gold, strict=True):
        brute = [
            np.mean([scaled[row, max(chosen, key=lambda i: proxy[row, i])] for chosen in combinations(range(7), n)])
            for row in range(3)
        ]
        assert found.value == pytest.approx(np.mean(brute))
    assert curve.kl[3] == pytest.approx(np.log(4) - 3 / 4)


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_a_fit_recovers_the_constants_of_its_form(form):
    d = np.linspace(0, 4, 12)
    gold = value_of(d, 1.3, 0.4, form)
    rng = np.random.default_rng(0)
    found = fit_form(d, gold, gold + 0.02 * rng.normal(size=(300, 12)), form=form, prompts=100)
    assert (found.alpha.value, found.beta.value) == pytest.approx((1.3, 0.4))
    assert found.r_squared == pytest.approx(1)
    assert found.alpha.low < 1.3 < found.alpha.high
    fine = np.linspace(0.01, 12, 20_000)
    values = value_of(fine, 1.3, 0.4, form)
    assert found.peak.value == pytest.approx(fine[values.argmax()], rel=1e-3)
    assert found.peak_gold.value == pytest.approx(values.max(), rel=1e-6)
    assert found.peaks == float(form == "best_of_n")  # 1.6 and 9.5 √nats, of 4 measured


def test_least_squares_is_numpys():
    rng = np.random.default_rng(0)
    d, gold = rng.uniform(0.2, 3, size=9), rng.normal(size=9)
    expected = np.linalg.lstsq(np.stack([d, -d * np.log(d)], 1), gold, rcond=None)[0]
    alpha, beta = least_squares(d[None], gold[None], "rl")
    assert (alpha[0], beta[0]) == pytest.approx(tuple(expected))


def test_forms_that_only_rise_have_no_peak():
    for form in ("best_of_n", "rl"):
        assert np.isnan(peak_of(1.0, -0.1, form)).all()


def test_a_fit_needs_two_points_and_fitting_shapes():
    with pytest.raises(ConfigError, match="at least 2 points"):
        fit_form([0.0, 1.0], [0.0, 1.0], np.zeros((3, 2)), form="rl", prompts=10)
    with pytest.raises(ShapeError, match="must have K columns"):
        fit_form([0.0, 1.0], [0.0], np.zeros((3, 1)), form="rl", prompts=10)


def test_gold_by_hand():
    texts = [" The cast is superb.", " The cast is superb. Wow! Wow!", " The cast is superb. Wow! Wow! Wow! Wow!", " ."]
    base = 1.2 * np.tanh(1.0)
    assert gold_scores(["p"] * 4, texts) == pytest.approx([base, base + 1.2, base + 1.2 - 1.8, -1.0])
    twice = gold_scores(["p"], [" The cast is bad and the cast is bad."])[0]
    assert twice == pytest.approx(1.2 * np.tanh(-0.8) - 0.3)


def world_curve(judge, seed=0, samples=512) -> Any:
    pool = generator_pool(prompts_count=24, samples=samples, seed=seed)
    proxy = np.array([judge(p, row) for p, row in zip(pool.prompts, pool.responses, strict=True)])
    return best_of_n_path(proxy, pool.gold, np.random.default_rng(seed), resamples=300)


@pytest.fixture(scope="module")
def proxy():
    rng = np.random.default_rng(0)
    drawn = [[review(rng) for _ in range(8)] for _ in prompts()]
    return WordCountModel().fit(noisy_comparisons(prompts(), drawn, gold_scores, rng, labels=300))


def test_a_proxy_of_few_noisy_labels_rises_while_gold_peaks_and_falls(proxy):
    curve = world_curve(lambda p, row: proxy.score([p] * len(row), row))
    values = [found.value for found in curve.proxy]
    assert values == sorted(values)
    assert curve.shape_known
    assert curve.drop.low > 0
    assert 0 < curve.fit.peak.value < np.sqrt(curve.kl[-1])
    assert curve.fit.beta.low > 0


def test_optimising_gold_itself_never_falls():
    curve = world_curve(lambda p, row: gold_scores([p] * len(row), row))
    assert not curve.shape_known
    assert curve.drop.value <= 0
    assert curve.gold[-1].value > 1.5


def test_noise_alone_makes_no_peak():
    rng = np.random.default_rng(0)
    false = sum(
        best_of_n_path(rng.normal(size=(16, 64)), rng.normal(size=(16, 64)), rng, resamples=100).shape_known
        for _ in range(40)
    )
    assert false <= 2


def test_a_constant_proxy_moves_nothing_and_has_no_form():
    curve = world_curve(lambda p, row: np.zeros(len(row)), samples=64)
    assert [found.value for found in curve.gold] == pytest.approx([0] * len(curve.gold), abs=1e-9)
    assert curve.fit is None


def test_a_policys_checkpoints_are_measured_from_the_first_one():
    rng = np.random.default_rng(1)
    d = np.linspace(0, 3, 8)
    shape = (8, 100, 10)
    kl = np.maximum((d**2)[:, None, None] + 0.05 * rng.normal(size=shape), 0) * (d > 0)[:, None, None]
    noise = rng.normal(size=shape)
    gold = 10 + 2 * (value_of(d, 1.5, 0.9, "rl")[:, None, None] + noise)
    curve: Any = policy_path(kl, 3 * d[:, None, None] + noise, gold, list(range(8)), rng, resamples=200)
    assert curve.method == "rl"
    assert curve.gold[0].value == pytest.approx(0, abs=1e-9)
    assert curve.fit.alpha.low < 1.5 < curve.fit.alpha.high
    assert curve.fit.beta.low < 0.9 < curve.fit.beta.high
    assert curve.kl[-1] == pytest.approx(9, rel=0.02)


def test_word_weights_say_which_words_are_preferred():
    labels = [Comparison("p", f" good {i}", f" bad {i}") for i in range(30)] + [Comparison("p", " fine", " poor")]
    model = WordCountModel().fit(labels)
    assert model.weights["good"] > 0 > model.weights["bad"]
    assert model.score(["p"], [" good good never"])[0] == pytest.approx(2 * model.weights["good"])


def test_wrong_arguments_are_explained():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="at least one comparison"):
        WordCountModel().fit([])
    with pytest.raises(ConfigError, match="`strength` must be positive"):
        WordCountModel(strength=0)
    with pytest.raises(ShapeError, match=r"must both be \(prompts, samples\)"):
        best_of_n_path(np.zeros(3), np.zeros(3), rng)
    with pytest.raises(ShapeError, match=r"must be \(checkpoints, prompts, samples\)"):
        policy_path(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), [0, 1], rng)
    with pytest.raises(ShapeError, match="got 1 steps for 2 checkpoints"):
        policy_path(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), [0], rng)
    with pytest.raises(ConfigError, match="need 1 to 64 prompts"):
        generator_pool(prompts_count=65)
    with pytest.raises(ShapeError, match="every prompt needs 2 responses"):
        PoolSuite("x", "X", ("p",), (("a",),), np.zeros((1, 2)))
