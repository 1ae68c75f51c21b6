from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import metrics
from reward_models.metrics import human_rater_accuracy, pair_accuracy, resampled_accuracy
from textenv.errors import ShapeError
from textenv.statistics import ClusterBootstrap


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def slow_accuracy(scores: list[float], means: list[float], gap: float) -> tuple[float, int]:
    points = []
    for i, j in combinations(range(len(scores)), 2):
        if abs(means[i] - means[j]) > gap:
            product = (scores[i] - scores[j]) * (means[i] - means[j])
            points.append(0.5 if scores[i] == scores[j] else float(product > 0))
    return (sum(points) / len(points) if points else math.nan), len(points)


def test_pair_accuracy_hand_worked() -> None:
    # Pairs: (0,1) gap 1 right, (0,2) gap 3 tie, (1,2) gap 2 wrong.
    found = pair_accuracy([1.0, 2.0, 1.0], [0.0, 1.0, 3.0], rng(), gaps=(0, 1, 2, 3), resamples=0)
    assert [found[gap].value for gap in (0, 1, 2)] == pytest.approx([1.5 / 3, 0.5 / 2, 0.5])
    assert [found[gap].n for gap in (0, 1, 2, 3)] == [3, 2, 1, 0]
    assert math.isnan(found[3].value)
    assert math.isnan(found[0].low)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-8, 8)), min_size=1, max_size=9))
def test_pair_accuracy_equals_plain_python(items: list[tuple[int, int]]) -> None:
    scores, means = [float(s) for s, _ in items], [m / 2 for _, m in items]
    found = pair_accuracy(scores, means, rng(), resamples=0)
    for gap, accuracy in found.items():
        value, pairs = slow_accuracy(scores, means, gap)
        assert accuracy.n == pairs
        assert accuracy.value == pytest.approx(value, nan_ok=True)


def test_pair_accuracy_constant_model_is_at_chance() -> None:
    assert pair_accuracy(np.zeros(20), np.arange(20.0), rng(), resamples=10)[0.0].value == 0.5


def test_pair_accuracy_many_blocks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, means = rng().normal(size=30), rng().integers(-8, 9, 30) / 2
    whole = pair_accuracy(scores, means, rng(), resamples=20)
    monkeypatch.setattr(metrics, "_ROWS", 7)
    assert pair_accuracy(scores, means, rng(), resamples=20)[0.5] == pytest.approx(whole[0.5])


def test_pair_accuracy_bootstrap_equals_resampling_by_hand() -> None:
    scores, means = rng().normal(size=80), np.random.default_rng(1).permutation(80).astype(float)
    bootstrap = ClusterBootstrap(np.arange(80), np.random.default_rng(5), resamples=60)
    found = resampled_accuracy(scores, means, bootstrap)[0.0]
    counts = bootstrap.weights.astype(int)
    values = []
    for row in counts:
        drawn = np.repeat(np.arange(80), row)
        # An item that was drawn twice makes no pair with itself.
        values.append(slow_accuracy(scores[drawn].tolist(), means[drawn].tolist(), 0.0)[0])
    assert np.std(found.draws) == pytest.approx(np.std(values), rel=0.1)  # they are linearised
    assert np.corrcoef(found.draws, values)[0, 1] > 0.95


def test_pair_accuracy_interval_covers_a_known_truth() -> None:
    # Scores = truth + noise of the same size: P(right order) for two normals is 0.75.
    covered = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        means = draw.normal(size=80)
        found = pair_accuracy(means + draw.normal(size=80), means, draw, gaps=(0.0,), resamples=100)[0.0]
        covered += found.low <= 0.75 <= found.high
    assert covered >= 34


def test_pair_accuracy_lengths_that_disagree_are_an_error() -> None:
    with pytest.raises(ShapeError, match="got 2 scores for 3 mean ratings"):
        pair_accuracy([0.0, 1.0], [0.0, 1.0, 2.0], rng())


def test_pair_accuracy_matrix_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"shape \(n,\), got shape \(2, 2\)"):
        pair_accuracy(np.zeros((2, 2)), [0.0, 1.0], rng())


def test_human_rater_accuracy_unanimous_raters_are_always_right() -> None:
    found = human_rater_accuracy([(3, 3, 3), (0, 0), (-2, -2, -2, -2)], rng(), resamples=0)
    assert [found[gap].value for gap in (0.0, 0.5, 1.0, 2.0)] == [1.0, 1.0, 1.0, 1.0]
    assert found[2.0].n == 2


def test_human_rater_accuracy_equals_the_expectation_over_all_raters() -> None:
    ratings = [(2, 1), (0, 2), (-1, 1, 0)]
    expected = []
    for first, second in combinations(ratings, 2):
        if sum(first) / len(first) == sum(second) / len(second):
            continue
        points = []
        for i in range(len(first)):
            for j in range(len(second)):
                truth = (sum(first) - first[i]) / (len(first) - 1) - (sum(second) - second[j]) / (len(second) - 1)
                points.append(0.5 * (np.sign(first[i] - second[j]) * np.sign(truth) + 1))
        expected.append(np.mean(points))
    found = human_rater_accuracy(ratings, rng(), gaps=(0.0,), draws=3000, resamples=0)[0.0]
    assert found.n == len(expected)
    assert found.value == pytest.approx(np.mean(expected), abs=0.02)


def test_human_rater_accuracy_pairs_are_those_of_the_models() -> None:
    ratings = [tuple(row) for row in rng().integers(-4, 5, size=(40, 15)).tolist()]
    means = [sum(row) / len(row) for row in ratings]
    human = human_rater_accuracy(ratings, rng(), resamples=0)
    model = pair_accuracy(means, means, rng(), resamples=0)
    assert [x.n for x in human.values()] == [x.n for x in model.values()]


def test_human_rater_accuracy_single_rating_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"item 1 has 1 rating\(s\); leaving one out needs at least 2"):
        human_rater_accuracy([(1, 2), (3,)], rng())
