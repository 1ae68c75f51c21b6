from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from reward_models.simulation import Rater, SimulatedRaters, WordGold, ceilings
from textenv.feedback.measures.agreement import krippendorff_alpha
from textenv.feedback.measures.ceiling import best_correlation, beta_ceiling, noise_ceiling, opinion_spread


def test_opinion_spread_hand_worked():
    # Pair 0: both say first, ½ · ½; pair 1: they differ, −½ · ½; pair 2: a tie makes 0; pair 3 has one rater.
    found = opinion_spread([1, 1, 1, 0, 0.5, 1, 1], [0, 0, 1, 1, 2, 2, 3])

    assert found.value == pytest.approx((0.25 - 0.25 + 0) / 3)
    assert found.units == 3


def test_opinion_spread_is_what_the_slow_reference_says():
    rng = np.random.default_rng(0)
    values, units = rng.choice([0.0, 0.5, 1.0], size=300), rng.integers(0, 100, size=300)
    means = []
    for unit in range(100):
        own = [values[row] - 0.5 for row in range(300) if units[row] == unit]
        if len(own) > 1:
            means.append(np.mean([a * b for a, b in permutations(own, 2)]))

    assert opinion_spread(values, units).value == pytest.approx(np.mean(means))


@pytest.mark.parametrize("a", [0.05, 0.3, 1.0, 2.5, 40.0])
def test_beta_ceiling_is_the_integral(a):
    p = np.random.default_rng(1).beta(a, a, size=400_000)

    assert beta_ceiling(1 / (4 * (2 * a + 1))) == pytest.approx(np.maximum(p, 1 - p).mean(), abs=1e-3)


def test_beta_ceiling_hand_worked():
    assert beta_ceiling(1 / 12) == pytest.approx(0.75)  # p even on 0…1
    assert (beta_ceiling(-0.01), beta_ceiling(0.0), beta_ceiling(0.25)) == (0.5, 0.5, 1.0)


def test_ceiling_hand_worked():
    # Two of three pairs agree, none ties: D = (¼ + ¼ − ¼) / 3 = 1/12.
    found = noise_ceiling([1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 2, 2])

    assert found.value == pytest.approx(0.75)
    assert found.least == pytest.approx(2 / 3)  # the agreement
    assert found.most == pytest.approx(0.5 + math.sqrt(1 / 12))
    assert (found.pairs, found.clusters) == (3, 3)


def test_ceiling_needs_two_raters():
    found = noise_ceiling([1, 0], [0, 1])

    assert math.isnan(found.value)
    assert found.pairs == 0


@pytest.mark.parametrize("draw", ["beta", "two kinds", "even minded"])
def test_bounds_hold_whatever_the_opinions_and_the_interval_covers_beta(draw):
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        n = 400
        p = {
            "beta": rng.beta(0.7, 0.7, size=n),
            "two kinds": np.where(rng.random(n) < 0.5, 0.5, rng.integers(0, 2, n).astype(float)),
            "even minded": np.where(rng.random(n) < 0.5, 0.3, 0.7),
        }[draw]
        values = (rng.random((n, 3)) < p[:, None]).astype(float)
        found = noise_ceiling(values.ravel(), np.repeat(np.arange(n), 3))
        truth = float(np.maximum(p, 1 - p).mean())
        assert found.least - 0.05 < truth < found.most + 0.05
        assert found.least < found.value < found.most
        covered += found.low <= truth <= found.high
    if draw == "beta":
        assert covered >= 88  # `truth` is that of the 400 pairs, the interval is about all


@pytest.mark.parametrize("noise", [0.4, 1.0, 3.0])
def test_ceiling_of_simulated_raters_is_near_the_exact_one(noise):
    gold = WordGold.random(np.random.default_rng(3), words=40, std=0.7)
    people = SimulatedRaters(gold, [Rater(f"r{i}", noise=noise, tie_threshold=0.1) for i in range(6)])
    rng = np.random.default_rng(4)
    words = list(gold.weights)
    texts = [" ".join(rng.choice(words, size=6)) for _ in range(3000)]
    first, second, prompts = texts[:1500], texts[1500:], ["p"] * 1500
    exact = ceilings(people, prompts, first, second)
    values, units = [], []
    for _ in range(3):
        for place, each in enumerate(people.compare(prompts, first, second)):
            values.append(0.5 if each.tie else float(each.chosen == first[place]))
            units.append(place)
    found = noise_ceiling(values, units)

    assert found.least - 0.02 < exact.best < found.most + 0.02
    assert found.value == pytest.approx(exact.best, abs=0.03)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_no_score_correlates_better_than_the_worth_does(noise):
    rng = np.random.default_rng(5)
    worth = rng.normal(size=3000)
    ratings = worth[:, None] + noise * rng.normal(size=(3000, 3))
    best = best_correlation(krippendorff_alpha(ratings.tolist()))

    assert best == pytest.approx(np.corrcoef(np.repeat(worth, 3), ratings.ravel())[0, 1], abs=0.02)
    assert best == pytest.approx(1 / math.sqrt(1 + noise**2), abs=0.02)


def test_best_correlation_of_chance_is_zero():
    assert best_correlation(-0.2) == 0
    assert math.isnan(best_correlation(math.nan))
