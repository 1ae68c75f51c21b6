from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from textenv.errors import ConfigError, ShapeError
from textenv.feedback.measures.agreement import (
    agreement_with_others,
    alpha_estimate,
    choice_values,
    krippendorff_alpha,
    pairwise_agreement,
)
from textenv.statistics import bootstrap_interval

# Krippendorff 2011, section C: four observers, twelve units, missing values left out.
UNITS = [
    [1, 1, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [5, 5, 5],
    [1, 1],
    [3],
]


def flat(units):
    values = [value for unit in units for value in unit]
    return np.array(values, float), np.repeat(np.arange(len(units)), [len(unit) for unit in units])


def slow_alpha(units, distance) -> float:
    """Krippendorff's alpha from its coincidence matrix, value by value."""
    coincidences: dict[tuple[float, float], float] = {}
    for unit in units:
        for first, second in permutations(range(len(unit)), 2):
            key = (unit[first], unit[second])
            coincidences[key] = coincidences.get(key, 0.0) + 1 / (len(unit) - 1)
    totals: dict[float, float] = {}
    for (first, _), count in coincidences.items():
        totals[first] = totals.get(first, 0.0) + count
    n = sum(totals.values())
    observed = sum(count * distance(*key) for key, count in coincidences.items()) / n
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals) / (n * (n - 1))
    return 1 - observed / expected


DISTANCES = {"nominal": lambda a, b: float(a != b), "interval": lambda a, b: (a - b) ** 2}


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, expected):
    assert krippendorff_alpha(UNITS, level=level) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_is_what_the_slow_reference_says(level):
    rng = np.random.default_rng(0)
    units = [rng.integers(1, 6, size=rng.integers(1, 5)).tolist() for _ in range(60)]

    assert krippendorff_alpha(units, level=level) == pytest.approx(slow_alpha(units, DISTANCES[level]))


def test_alpha_hand_worked():
    # Observed: (0 + 2) / 4; expected: 1, 1, 1, 2 have 6 ordered pairs that differ among 12.
    assert krippendorff_alpha([[1, 1], [1, 2]], level="nominal") == 1 - (2 / 4) / (6 / 12)


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_without_pairs_or_variation_is_nan(level):
    assert math.isnan(krippendorff_alpha([], level=level))
    assert math.isnan(krippendorff_alpha([[1], [2]], level=level))
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]], level=level))


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alphas_error_is_that_of_the_bootstrap(level):
    rng = np.random.default_rng(1)
    worth = rng.integers(1, 6, size=150)
    units = [np.clip(w + rng.integers(-1, 2, size=rng.integers(2, 5)), 1, 5).tolist() for w in worth]
    found = alpha_estimate(*flat(units), level=level)

    def alphas(drawn):
        return np.array([krippendorff_alpha([units[int(u)] for u in row], level=level) for row in drawn])

    low, high = bootstrap_interval(np.arange(len(units)), rng, statistic=alphas, resamples=300)
    assert found.units == 150
    assert found.standard_error == pytest.approx((high - low) / (2 * 1.96), rel=0.15)


def test_alphas_error_counts_clusters():
    values, units = flat(UNITS[:8] * 2)
    alone = alpha_estimate(values, units)
    doubled = alpha_estimate(values, units, clusters=units % 8)

    assert doubled.value == alone.value
    assert (alone.units, doubled.units) == (16, 8)
    assert doubled.standard_error > 1.3 * alone.standard_error


def test_random_choices_have_alpha_zero_and_alike_ones_one():
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(4000), 2)
    by_chance = choice_values(rng.choice([0.0, 0.5, 1.0], p=[0.7, 0.1, 0.2], size=8000), units)
    alike = choice_values(np.repeat(rng.integers(0, 2, 4000), 2), units)

    # The first answer wins far more often; seen from both sides that alone is agreement, and alpha says so.
    assert alpha_estimate(by_chance.values, by_chance.units, level="nominal").value > 0.1
    assert alpha_estimate(alike.values, alike.units, level="nominal").value == 1.0
    even = choice_values(rng.choice([0.0, 0.5, 1.0], p=[0.45, 0.1, 0.45], size=8000), units)
    found = alpha_estimate(even.values, even.units, level="nominal", clusters=even.clusters)
    assert abs(found.value) < 3 * found.standard_error
    assert found.units == 4000


def test_alpha_of_choices_does_not_depend_on_which_answer_is_the_first():
    rng = np.random.default_rng(3)
    values, units = rng.choice([0.0, 0.5, 1.0], size=300), np.repeat(np.arange(100), 3)
    turned = np.where((units % 7 < 3), 1 - values, values)
    found = [alpha_estimate(*choice_values(each, units)[:2], level="nominal").value for each in (values, turned)]

    assert found[0] == pytest.approx(found[1])


def test_alpha_of_choices_hand_worked():
    # Two raters agree on one pair and contradict each other on another. From both sides: units 11, 00, 10, 01.
    # Observed: (2 + 2) / 8; expected: four ones and four zeros have 32 ordered pairs that differ among 56.
    found = choice_values([1, 1, 1, 0], [0, 0, 1, 1])

    assert alpha_estimate(found.values, found.units, level="nominal").value == pytest.approx(1 - (4 / 8) / (32 / 56))


def test_agreement_with_others_hand_worked():
    found = agreement_with_others([1, 1, 2, 5, 3, 3], [0, 0, 0, 1, 2, 2])
    close = agreement_with_others([1, 1, 2, 5, 3, 3], [0, 0, 0, 1, 2, 2], tolerance=1)

    assert found[:3] == pytest.approx([0.5, 0.5, 0.0])
    assert math.isnan(found[3])
    assert found[4:] == pytest.approx([1, 1])
    assert close[:3] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_agreement_with_others_is_what_the_slow_reference_says(tolerance):
    rng = np.random.default_rng(4)
    steps, units = rng.integers(-3, 4, size=200), rng.integers(0, 60, size=200)
    found = agreement_with_others(steps, units, tolerance=tolerance)
    for row in range(200):
        others = [other for other in range(200) if other != row and units[other] == units[row]]
        same = [abs(steps[other] - steps[row]) <= tolerance for other in others]
        assert found[row] == pytest.approx(np.mean(same) if others else math.nan, nan_ok=True)


def test_pairwise_agreement_counts_units_alike_hand_worked():
    # Unit 0: one of three pairs; unit 1: its only pair; unit 2 has one rater.
    found = pairwise_agreement([1, 1, 2, 4, 4, 1], [0, 0, 0, 1, 1, 2])

    assert found.value == pytest.approx((1 / 3 + 1) / 2)
    assert found.units == 2
    assert pairwise_agreement([1, 1, 2, 4, 4, 1], [0, 0, 0, 1, 1, 2], clusters=[7, 7, 7, 7, 7, 8]).units == 2
    assert pairwise_agreement([1, 2], [0, 1]).units == 0


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="`level` must be nominal or interval, got 'ratio'"):
        alpha_estimate([1.0], [0], level="ratio")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ShapeError, match="must have shape"):
        alpha_estimate([1.0, 2.0], [0])
    with pytest.raises(ShapeError, match="to match `steps`"):
        agreement_with_others([1, 2], [0])
