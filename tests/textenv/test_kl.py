from __future__ import annotations

import numpy as np
import pytest
import torch

from textenv.kl import ESTIMATORS


@pytest.mark.parametrize(
    ("name", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", np.exp(-0.5) - 1 + 0.5)], ids=["k1", "k2", "k3"]
)
def test_estimator_of_half_a_nat_matches_hand_worked_number(name: str, expected: float):
    assert ESTIMATORS[name](torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_unbiased_estimators_have_the_exact_kl_as_expectation(name: str):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(7), 2)
    exact = float((p * np.log(p / q)).sum())
    expectation = float((p * ESTIMATORS[name](torch.as_tensor(np.log(p / q))).numpy()).sum())
    assert expectation == pytest.approx(exact, abs=1e-12)


def test_k3_is_never_negative_and_zero_only_at_zero():
    values = ESTIMATORS["k3"](torch.linspace(-3, 3, 61, dtype=torch.float64))
    assert (values >= 0).all()
    assert values[30].abs() < 1e-15
