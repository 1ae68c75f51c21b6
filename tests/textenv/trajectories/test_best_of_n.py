from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tests.textenv.trajectories.helpers import assert_unbiased, sample_toy
from textenv.envs import toy
from textenv.errors import ConfigError, ShapeError
from textenv.trajectories import best_of_n_curve, best_of_n_kl, expected_best, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(5, 0, 1, 0), (5, 1, 1, 0.2), (5, 2, 2, 0.7), (5, 4, 2, 1), (5, 5, 5, 1), (4, 1, 4, 1), (200, 1, 100, 0.5)],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_equals_counting_subsets():
    for n in range(1, 8):
        for k in range(1, n + 1):
            for c in range(n + 1):
                hits = [any(i < c for i in chosen) for chosen in combinations(range(n), k)]
                assert pass_at_k(n, c, k) == pytest.approx(np.mean(hits))


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    found = pass_at_k(np.full(20_000, 10), rng.binomial(10, 0.15, 20_000), 4)
    assert_unbiased(found.mean(), found.std() / np.sqrt(20_000), 1 - 0.85**4)


def test_expected_best_equals_counting_subsets():
    rng = np.random.default_rng(0)
    scores, gold = rng.integers(0, 4, (3, 6)).astype(float), rng.normal(size=(3, 6))
    for k in range(1, 7):
        by_hand = [np.mean([max(row[list(chosen)]) for chosen in combinations(range(6), k)]) for row in scores]
        np.testing.assert_allclose(expected_best(scores, k), by_hand)
        worth = []
        for row, values in zip(scores, gold, strict=True):
            subsets = [np.array(chosen) for chosen in combinations(range(6), k)]
            worth.append(np.mean([values[s[row[s] == row[s].max()]].mean() for s in subsets]))
        if k == 1 or (np.diff(np.sort(scores)) > 0).all():
            np.testing.assert_allclose(expected_best(scores, k, values=gold), worth)


def test_expected_best_shares_among_equals():
    assert expected_best([1.0, 1.0, 0.0], 3, values=[10.0, 20.0, 99.0]) == pytest.approx(15)
    assert expected_best([0.0, 0.0, 0.0], 2, values=[1.0, 2.0, 3.0]) == pytest.approx(2)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_best_of_n_is_unbiased_on_the_toy_problem(k):
    mdp = toy.ToyMDP.random(np.random.default_rng(3), vocab_size=4, horizon=3, num_prompts=1)
    chosen = toy.best_of_n_distribution(mdp, mdp.ref_probs, k)
    exact = sum(p * sum(mdp.token_rewards(*answer)) for answer, p in chosen.items())
    scores = sample_toy(mdp, mdp.ref_probs, 40_000, np.random.default_rng(0)).returns.reshape(-1, 8)
    found = expected_best(scores, k)
    assert_unbiased(found.mean(), found.std() / np.sqrt(len(found)), exact)


def test_curve_takes_powers_of_two_and_all():
    curve = best_of_n_curve([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, 0.0, 0.0, 0.0, 0.0, 6.0]])
    assert curve.n.tolist() == [1, 2, 4, 6]
    np.testing.assert_allclose(curve.values[[0, -1]], [(3.5 + 1) / 2, 6])
    assert curve.standard_errors[-1] == 0
    np.testing.assert_allclose(curve.kl, [0, np.log(2) - 0.5, np.log(4) - 0.75, np.log(6) - 5 / 6])
    assert best_of_n_curve([[1.0, 2.0]], sizes=[2]).n.tolist() == [2]


def test_kl_of_best_of_n_is_exact_without_ties():
    """On many equally likely answers with different scores."""
    m, n = 2000, 4
    ranks = np.arange(1, m + 1)
    chosen = (ranks**n - (ranks - 1.0) ** n) / m**n
    assert (chosen * np.log(chosen * m)).sum() == pytest.approx(best_of_n_kl(n), abs=2e-3)


def test_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"`k` must lie in 1 … the number of samples \(4\), got 5"):
        pass_at_k([4, 9], [1, 1], 5)
    with pytest.raises(ConfigError, match="`correct` must lie in"):
        pass_at_k(4, 5, 1)
    with pytest.raises(ConfigError, match="`k` must lie in 1 … 3"):
        expected_best([1.0, 2.0, 3.0], 4)
    with pytest.raises(ShapeError, match=r"`values` has shape \(1,\)"):
        expected_best([1.0, 2.0], 1, values=[1.0])
    with pytest.raises(ShapeError, match=r"must have shape \(prompts, answers\)"):
        best_of_n_curve([1.0, 2.0])
    with pytest.raises(ConfigError, match="`n` must be ≥ 1"):
        best_of_n_kl(0)
