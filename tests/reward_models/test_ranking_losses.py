"""Losses of lists: against hand-worked numbers and against enumeration of all orders, ties and partial rankings too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models.losses import PADDING, UNRANKED, best_of, bradley_terry, davidson, plackett_luce, ranked_pairs
from textenv.errors import ShapeError

T = torch.tensor


def order_probability(scores: Sequence[float], order: Sequence[int]) -> float:
    """Plackett-Luce probability of a full order, drawn one after the other."""
    worth = [math.exp(score) for score in scores]
    left, probability = sum(worth), 1.0
    for index in order:
        probability *= worth[index] / left
        left -= worth[index]
    return probability


def enumerated(scores: Sequence[float], ranks: Sequence[int]) -> float:
    """Probability of what `ranks` says: the sum over all full orders that agree with it."""
    last = len(ranks) + 1
    keys = [last if rank == UNRANKED else rank for rank in ranks]
    orders = itertools.permutations(range(len(scores)))
    return sum(
        order_probability(scores, order)
        for order in orders
        if all(keys[one] <= keys[other] for one, other in itertools.pairwise(order))
    )


lists = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-3, 3), min_size=k, max_size=k),
        st.lists(st.integers(UNRANKED, k), min_size=k, max_size=k).filter(any),
    )
)


@settings(max_examples=120, deadline=None)
@given(lists)
def test_plackett_luce_equals_enumeration_with_ties_and_partial_rankings(case: tuple[list[float], list[int]]) -> None:
    scores, ranks = case
    loss = plackett_luce(T([scores], dtype=torch.float64), T([ranks]))
    assert loss.item() == pytest.approx(-math.log(enumerated(scores, ranks)), abs=1e-9)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_plackett_luce_probabilities_of_all_weak_orders_with_one_best_group_add_up(k: int) -> None:
    scores = torch.linspace(-1, 2, k, dtype=torch.float64)
    full = [[order.index(i) + 1 for i in range(k)] for order in itertools.permutations(range(k))]
    total = sum(math.exp(-plackett_luce(scores[None], T([ranks])).item()) for ranks in full)
    assert total == pytest.approx(1.0)


def test_plackett_luce_hand_worked() -> None:
    # Worth 3, 2, 1: 3/6 x 2/3; as a top-1 ranking 3/6; the first two tied: 3/6 x 2/3 + 2/6 x 3/4.
    scores = torch.log(T([[3.0, 2.0, 1.0]]))
    assert plackett_luce(scores, T([[1, 2, 3]])).item() == pytest.approx(math.log(3))
    assert plackett_luce(scores, T([[1, 0, 0]])).item() == pytest.approx(math.log(2))
    assert plackett_luce(scores, T([[1, 1, 2]])).item() == pytest.approx(-math.log(1 / 3 + 1 / 4))
    assert plackett_luce(scores, T([[1, 1, 1]])).item() == pytest.approx(0.0, abs=1e-6)


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    scores = T([[0.3, -1.2], [2.0, 0.5]])
    loss = plackett_luce(scores, T([[1, 2], [2, 1]]), weights=T([1.0, 3.0]))
    expected = bradley_terry(T([0.3, 0.5]), T([-1.2, 2.0]), weights=T([1.0, 3.0]))
    assert loss.item() == pytest.approx(expected.item())


def test_plackett_luce_padding_order_and_level_change_nothing() -> None:
    scores, ranks = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), T([[1, 3, 3, 0, 5]] * 3)
    loss = plackett_luce(scores, ranks)
    padded = torch.cat([scores, torch.full((3, 2), 1e4)], dim=1)
    assert plackett_luce(padded, torch.cat([ranks, torch.full((3, 2), PADDING)], dim=1)).item() == loss.item()
    order = T([3, 0, 4, 2, 1])
    assert plackett_luce(scores[:, order] - 9, ranks[:, order]).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("loss", [plackett_luce, ranked_pairs], ids=["Plackett-Luce", "pairs"])
def test_list_losses_have_finite_gradients_that_ignore_padding(loss: object) -> None:
    scores = T([[1e3, -1e3, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    ranks = T([[3, 1, 1, UNRANKED], [1, 2, PADDING, PADDING]])
    loss(scores, ranks).backward()  # type: ignore[operator]
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[1, 2:].tolist() == [0.0, 0.0]
    assert scores.grad.sum(dim=1).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_plackett_luce_gradient_is_that_of_finite_differences() -> None:
    scores = T([[0.3, -0.7, 1.1, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, T([[2, 1, 2, 0]])), (scores,))


def test_plackett_luce_too_many_tied_says_what_to_do() -> None:
    ranks = T([[1] * 13 + [2]])
    with pytest.raises(ShapeError, match=r"list 0 ties 13 responses at rank 1.*use `ranked_pairs`"):
        plackett_luce(torch.zeros(1, 14), ranks)


def test_best_of_hand_worked_and_equal_to_a_top_one_ranking() -> None:
    scores = torch.log(T([[3.0, 2.0, 1.0], [1.0, 1.0, 7.0]]))
    present = T([[True, True, True], [True, True, False]])
    loss = best_of(scores, T([0, 1]), present=present)
    assert loss.item() == pytest.approx(math.log(2))  # 3/6 and 1/2
    assert plackett_luce(scores, T([[1, 0, 0], [0, 1, PADDING]])).item() == pytest.approx(loss.item())


def test_best_of_wrong_shape_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"`scores` must be \(G, K\) and `best` \(G,\), got \(2, 3\), \(3,\)"):
        best_of(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))


def slow_pairs(scores: Sequence[float], ranks: Sequence[int], smoothing: float, log_nu: float | None) -> float:
    last = len(ranks) + 1
    keys = [last if rank == UNRANKED else rank for rank in ranks]
    losses = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if keys[i] == keys[j] and (keys[i] == last or log_nu is None):
            continue
        better, worse = (i, j) if keys[i] <= keys[j] else (j, i)
        one, other = T([scores[better]]).double(), T([scores[worse]]).double()
        if log_nu is None:
            losses.append(bradley_terry(one, other, label_smoothing=smoothing).item())
        else:
            losses.append(davidson(one, other, T([keys[i] == keys[j]]), log_nu).item())
    return sum(losses) / len(losses) if losses else 0.0


@settings(max_examples=60, deadline=None)
@given(lists, st.sampled_from([0.0, 0.1]), st.sampled_from([None, -0.5]))
def test_ranked_pairs_equals_plain_python(
    case: tuple[list[float], list[int]], smoothing: float, log_nu: float | None
) -> None:
    scores = [float(T(score)) for score in case[0]]
    loss = ranked_pairs(T([scores]).double(), T([case[1]]), label_smoothing=smoothing, log_nu=log_nu)
    assert loss.item() == pytest.approx(slow_pairs(scores, case[1], smoothing, log_nu), abs=1e-6)


def test_ranked_pairs_counts_each_list_once_whatever_its_length() -> None:
    scores = T([[2.0, 1.0, 0.0, -1.0], [1.0, 0.0, 9.0, 9.0]])
    ranks = T([[1, 2, 3, 4], [1, 2, PADDING, PADDING]])
    alone = [ranked_pairs(scores[i : i + 1], ranks[i : i + 1]).item() for i in range(2)]
    assert ranked_pairs(scores, ranks).item() == pytest.approx(sum(alone) / 2)
    # A list without a decided pair takes no part in the mean.
    assert ranked_pairs(scores, T([[1, 2, 3, 4], [1, 1, PADDING, PADDING]])).item() == pytest.approx(alone[0])


def test_list_losses_shapes_that_disagree_are_errors() -> None:
    with pytest.raises(ShapeError, match=r"`scores` \(2, 3\), `ranks` \(2, 2\)"):
        plackett_luce(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"must be \(G, K\), got \(3,\)"):
        ranked_pairs(torch.zeros(3), torch.ones(3, dtype=torch.int64))
