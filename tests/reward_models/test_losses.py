from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models.losses import bradley_terry, centering, rated_pairs
from textenv.errors import ShapeError

T = torch.tensor


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("difference", "margin_smoothing", "expected"),
    [
        pytest.param(0.0, (0, 0), math.log(2), id="equal scores cost log 2"),
        pytest.param(math.log(3), (0, 0), math.log(4 / 3), id="odds of 3 to 1"),
        pytest.param(-math.log(3), (0, 0), math.log(4), id="odds of 1 to 3"),
        pytest.param(1.0 + math.log(3), (1, 0), math.log(4 / 3), id="margin is subtracted"),
        pytest.param(math.log(3), (0, 0.25), 0.75 * math.log(4 / 3) + 0.25 * math.log(4), id="smoothing"),
    ],
)
def test_bradley_terry_hand_worked(difference: float, margin_smoothing: tuple[float, float], expected: float) -> None:
    loss = bradley_terry(
        T([difference + 0.5]), T([0.5]), margin=margin_smoothing[0], label_smoothing=margin_smoothing[1]
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_bradley_terry_weights_are_a_weighted_mean() -> None:
    loss = bradley_terry(T([0.0, math.log(3)]), T([0.0, 0.0]), weights=T([1.0, 3.0]))
    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4)


def test_bradley_terry_margin_per_pair() -> None:
    loss = bradley_terry(T([1.0, 2.0]), T([0.0, 0.0]), margin=T([1.0, 2.0]))
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("weights", [None, torch.zeros(0)])
def test_bradley_terry_without_pairs_is_zero_with_zero_gradient(weights: torch.Tensor | None) -> None:
    scores = torch.zeros(0, requires_grad=True)
    bradley_terry(scores, scores, weights=weights).backward()
    assert scores.grad is not None


def test_bradley_terry_zero_weights_give_zero_not_nan() -> None:
    scores = T([1.0, 2.0], requires_grad=True)
    loss = bradley_terry(scores, torch.zeros(2), weights=torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]


def test_bradley_terry_large_differences_stay_finite() -> None:
    scores = T([1e4, -1e4], requires_grad=True)
    loss = bradley_terry(scores, torch.zeros(2))
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("bad", ["rejected", "weights"])
def test_bradley_terry_shapes_that_disagree_are_an_error(bad: str) -> None:
    rejected = torch.zeros(3) if bad == "rejected" else torch.zeros(2)
    with pytest.raises(ShapeError, match=r"must have one shape, got \(2,\)"):
        bradley_terry(torch.zeros(2), rejected, weights=torch.zeros(3) if bad == "weights" else None)


def slow_rated_pairs(
    scores: list[float], ratings: list[float], min_gap: float, smoothing: float, scale: float
) -> float:
    losses = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            gap = ratings[i] - ratings[j]
            if gap > min_gap:
                d = scores[i] - scores[j] - scale * gap
                losses.append(-(1 - smoothing) * log_sigmoid(d) - smoothing * log_sigmoid(-d))
    return sum(losses) / len(losses) if losses else 0.0


numbers = st.floats(-4, 4, width=32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.5]),
)
def test_rated_pairs_equals_plain_python(
    items: list[tuple[float, float]], min_gap: float, smoothing: float, scale: float
) -> None:
    scores, ratings = [s for s, _ in items], [float(torch.tensor(r)) for _, r in items]
    # Double precision, so that a gap on the threshold is decided alike in both.
    loss = rated_pairs(
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(ratings, dtype=torch.float64),
        min_gap=min_gap,
        label_smoothing=smoothing,
        margin_scale=scale,
    )
    assert loss.item() == pytest.approx(slow_rated_pairs(scores, ratings, min_gap, smoothing, scale), abs=1e-9)


def test_rated_pairs_hand_worked() -> None:
    # Ratings 3, 1, 1: two pairs (equal ratings make none), with differences log 3 and 0.
    loss = rated_pairs(T([math.log(3), 0.0, math.log(3)]), T([3.0, 1.0, 1.0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_rated_pairs_order_and_level_change_nothing() -> None:
    scores, ratings = torch.randn(9, generator=torch.Generator().manual_seed(0)), torch.arange(9.0) % 4
    order = torch.tensor([4, 1, 8, 0, 2, 7, 3, 6, 5])
    loss = rated_pairs(scores, ratings)
    assert rated_pairs(scores[order] + 7, ratings[order] - 2).item() == pytest.approx(loss.item(), rel=1e-5)


def test_rated_pairs_single_text_gives_zero_gradient() -> None:
    scores = T([1.0], requires_grad=True)
    rated_pairs(scores, T([2.0])).backward()
    assert scores.grad is not None
    assert scores.grad.item() == 0.0


@pytest.mark.parametrize(("scores", "ratings"), [((2,), (3,)), ((2, 1), (2, 1))])
def test_rated_pairs_wrong_shape_is_an_error(scores: tuple[int, ...], ratings: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"must be \(B,\)"):
        rated_pairs(torch.zeros(scores), torch.zeros(ratings))


def test_centering_is_the_mean_square() -> None:
    assert centering(T([1.0, -3.0])).item() == 5.0
