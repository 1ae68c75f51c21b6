from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.formulas.advantages import explained_variance, gae, masked_mean, whiten
from textenv.errors import ShapeError


def slow_gae(rewards, values, last_value, mask, gamma, lam):
    """Advantages as sums of discounted temporal differences, written out from the definition."""
    steps = [t for t in range(len(rewards)) if mask[t]]
    out = np.zeros(len(rewards))
    for i, t in enumerate(steps):
        for j, u in enumerate(steps[i:]):
            after = values[steps[i + j + 1]] if i + j + 1 < len(steps) else last_value
            out[t] += (gamma * lam) ** j * (rewards[u] + gamma * after - values[u])
    return out


def test_gae_three_tokens_matches_hand_worked_numbers():
    # δ2 = 1 − 0.5 = 0.5; δ1 = 0.5 − 0.25 = 0.25; δ0 = 0.25 − 0 = 0.25 with γ = 1; λ = 0.5.
    advantages, returns = gae(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.0, 0.25, 0.5]]),
        torch.zeros(1),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=1.0,
        gae_lambda=0.5,
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.25 + 0.5 * (0.25 + 0.5 * 0.5), 0.25 + 0.25, 0.5]]))
    torch.testing.assert_close(returns, advantages + torch.tensor([[0.0, 0.25, 0.5]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_random_rows_with_gaps_matches_definition(gamma: float, lam: float):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 9))
    last = rng.normal(size=6)
    mask = np.arange(9) < rng.integers(1, 10, (6, 1))
    mask[:, 3] = False  # tokens of a responder in between
    mask[:, 0] = True
    found, _ = gae(*map(torch.as_tensor, (rewards, values, last, mask)), gamma=gamma, gae_lambda=lam)
    expected = np.stack([slow_gae(*row, gamma, lam) for row in zip(rewards, values, last, mask, strict=True)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_gae_extra_padding_with_rubbish_changes_nothing():
    rewards, values = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    short, _ = gae(rewards, values, torch.zeros(3).double(), mask, gamma=1.0, gae_lambda=0.9)
    rubbish = torch.full((3, 2), torch.nan, dtype=torch.float64)
    wide, _ = gae(
        torch.cat([rewards, rubbish], 1),
        torch.cat([values, rubbish], 1),
        torch.zeros(3).double(),
        torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], 1),
        gamma=1.0,
        gae_lambda=0.9,
    )
    torch.testing.assert_close(wide[:, :4], short)
    assert (wide[:, 4:] == 0).all()


def test_gae_wrong_shape_names_the_tensor():
    good = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match=r"`values` has shape \(2, 4\), expected \(2, 3\) to match `rewards`"):
        gae(good, torch.zeros(2, 4), torch.zeros(2), good.bool(), gamma=1.0, gae_lambda=1.0)


def test_whiten_masked_entries_have_mean_0_and_variance_1():
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    mask = torch.arange(5) < torch.tensor([[5], [2], [1], [4]])
    white = whiten(x, mask)
    assert white[mask].mean().abs() < 1e-5
    assert abs(white[mask].var(correction=0).item() - 1) < 1e-4
    assert (white[~mask] == 0).all()


def test_whiten_without_shift_keeps_the_mean():
    x = torch.tensor([[1.0, 3.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(whiten(x, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


def test_masked_mean_ignores_nan_outside_the_mask():
    assert masked_mean(torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([True, False, True])) == 2


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (5.0, 1.0)], ids=["perfect", "constant offset"])
def test_explained_variance_known_cases(shift: float, expected: float):
    returns = torch.tensor([[1.0, 2.0, 3.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert explained_variance(returns + shift, returns, mask) == pytest.approx(expected)
    assert explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0.0)
