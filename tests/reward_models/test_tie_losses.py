"""Losses with ties, uncertainty and categories, and those of steps: hand-worked, complete, stable, right gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from reward_models.losses import (
    bradley_terry,
    davidson,
    davidson_logprobs,
    gaussian_nll,
    increasing,
    ordinal,
    ordinal_logprobs,
    rao_kupper,
    rated_pairs,
    squared_error,
    step_bce,
    thurstone,
    weighted_mean,
)
from textenv.errors import ShapeError

T = torch.tensor
WIN, TIE = T([False]), T([True])


def test_davidson_hand_worked() -> None:
    # d = 2 log 2, nu = 1: win, loss, tie as 2 : 1/2 : 1.
    d = T([2 * math.log(2.0)])
    zero = torch.zeros(1)
    assert davidson(d, zero, WIN, 0.0).item() == pytest.approx(-math.log(2 / 3.5))
    assert davidson(zero, d, WIN, 0.0).item() == pytest.approx(-math.log(0.5 / 3.5))
    assert davidson(d, zero, TIE, 0.0).item() == pytest.approx(-math.log(1 / 3.5))
    assert davidson(d, zero, WIN, 0.0, confidence=0.75).item() == pytest.approx(
        -0.75 * math.log(2 / 3.5) - 0.25 * math.log(0.5 / 3.5)
    )


def test_davidson_margin_holds_for_wins_only() -> None:
    scores = T([1.0, 1.0]), torch.zeros(2)
    ties = T([False, True])
    expected = davidson(T([0.5, 1.0]), torch.zeros(2), ties, 0.3)
    assert davidson(*scores, ties, 0.3, margin=0.5).item() == pytest.approx(expected.item())


def test_davidson_without_ties_is_bradley_terry() -> None:
    one, other = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    loss = davidson(one, other, torch.zeros(6, dtype=torch.bool), -40.0, confidence=0.8)
    assert loss.item() == pytest.approx(bradley_terry(one, other, confidence=0.8).item(), rel=1e-5)


def test_davidson_probabilities_add_up() -> None:
    total = sum(part.exp() for part in davidson_logprobs(torch.linspace(-50, 50, 9), 0.7))
    assert torch.as_tensor(total).tolist() == pytest.approx([1.0] * 9, abs=1e-5)


def test_rao_kupper_hand_worked_and_complete() -> None:
    # theta = 2: worth 3 against 1 wins with 3 / (3 + 2), loses with 1 / (1 + 6).
    one, zero, threshold = T([math.log(3.0)]), torch.zeros(1), math.log(2.0)
    win, lose = rao_kupper(one, zero, WIN, threshold).item(), rao_kupper(zero, one, WIN, threshold).item()
    tie = rao_kupper(one, zero, TIE, threshold).item()
    assert (win, lose) == pytest.approx((-math.log(3 / 5), -math.log(1 / 7)))
    assert math.exp(-tie) == pytest.approx(1 - 3 / 5 - 1 / 7, rel=1e-5)


def test_thurstone_hand_worked() -> None:
    # Difference 1, standard deviations 0.6 and 0.8: Phi(1) = 0.841345.
    stds = torch.log(T([0.6])), torch.log(T([0.8]))
    assert thurstone(T([1.0]), T([0.0]), *stds).item() == pytest.approx(-math.log(0.841345), abs=1e-5)
    half = thurstone(T([1.0]), T([0.0]), *stds, confidence=0.5).item()
    assert half == pytest.approx(-0.5 * math.log(0.841345) - 0.5 * math.log(0.158655), abs=1e-5)


def test_gaussian_nll_hand_worked() -> None:
    # One standard deviation off: log std + 1/2 + log(2 pi) / 2; a mean of four has half the spread.
    constant = 0.5 * math.log(2 * math.pi)
    one = gaussian_nll(T([1.0]), torch.log(T([2.0])), T([3.0]))
    assert one.item() == pytest.approx(math.log(2) + 0.5 + constant)
    four = gaussian_nll(T([1.0]), torch.log(T([2.0])), T([3.0]), counts=4.0)
    assert four.item() == pytest.approx(0.0 + 2.0 + constant, abs=1e-6)


def test_gaussian_nll_is_smallest_at_the_true_spread() -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 1.5
    log_std = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_std])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = gaussian_nll(torch.zeros(4000), log_std.expand(4000), noise)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)  # type: ignore[arg-type]
    assert log_std.exp().item() == pytest.approx(1.5, abs=0.05)


def test_squared_error_is_a_weighted_mean() -> None:
    assert squared_error(T([1.0, 2.0]), T([0.0, 0.0]), weights=T([3.0, 1.0])).item() == 7 / 4


def test_ordinal_hand_worked_and_complete() -> None:
    cutpoints, score = T([-1.0, 1.0]), T([0.5])
    below = [1 / (1 + math.exp(1.5)), 1 / (1 + math.exp(-0.5))]
    expected = [below[0], below[1] - below[0], 1 - below[1]]
    found = [math.exp(-ordinal(score, T([k]), cutpoints).item()) for k in range(3)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_ordinal_far_out_stays_finite_with_a_gradient() -> None:
    scores = T([500.0, -500.0, 0.0], requires_grad=True)
    ordinal(scores, T([1, 1, 0]), T([-1.0, 1.0])).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0] > 0 > scores.grad[1]


def test_ordinal_two_categories_are_a_logistic() -> None:
    found = ordinal_logprobs(T([2.0, 2.0]), T([1, 0]), T([0.5]))
    assert found.tolist() == pytest.approx([-math.log1p(math.exp(-1.5)), -math.log1p(math.exp(1.5))])


def test_ordinal_category_without_a_place_is_an_error() -> None:
    with pytest.raises(ShapeError, match="`categories` must be from 0 to 2 for 2 cutpoints, got 0 to 3"):
        ordinal(torch.zeros(2), T([0, 3]), T([-1.0, 1.0]))


def test_increasing_numbers_increase() -> None:
    assert increasing(T([0.5, math.log(math.e - 1)])).tolist() == pytest.approx([0.5, 1.5])
    assert (increasing(torch.randn(7, generator=torch.Generator().manual_seed(0))).diff() > 0).all()


def test_bradley_terry_confidence_and_smoothing_are_one_target() -> None:
    one, other = T([1.0]), T([0.0])
    win, lose = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    loss = bradley_terry(one, other, confidence=T([0.75]), label_smoothing=0.1).item()
    assert loss == pytest.approx(0.7 * win + 0.3 * lose)  # 0.75 x 0.9 + 0.25 x 0.1


def test_rated_pairs_spreads_give_the_share_of_raters_as_target() -> None:
    # Gap 1, standard deviations 0.6 and 0.8: Phi(1).
    scores, ratings = T([2.0, 1.5]), T([1.0, 0.0])
    loss = rated_pairs(scores, ratings, spreads=T([0.6, 0.8]))
    assert loss.item() == pytest.approx(bradley_terry(T([2.0]), T([1.5]), confidence=0.841345).item(), abs=1e-5)
    certain = rated_pairs(scores, ratings, spreads=torch.zeros(2))
    assert certain.item() == pytest.approx(rated_pairs(scores, ratings).item())


def test_rated_pairs_weights_multiply() -> None:
    scores, ratings = T([1.0, 0.0, 0.5]), T([3.0, 2.0, 1.0])
    loss = rated_pairs(scores, ratings, weights=T([1.0, 2.0, 0.0]))
    assert loss.item() == pytest.approx(bradley_terry(T([1.0]), T([0.0])).item())


def test_step_bce_hand_worked_and_blind_to_what_is_unknown() -> None:
    scores = T([[math.log(3.0), 0.0, 99.0], [0.0, -99.0, 99.0]], requires_grad=True)
    known = T([[True, True, False], [True, False, False]])
    loss = step_bce(scores, T([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), known)
    assert loss.item() == pytest.approx(((math.log(4 / 3) + math.log(2)) / 2 + math.log(2)) / 2)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[~known].tolist() == [0.0, 0.0, 0.0]


DOUBLE = torch.float64
GRADIENTS: list[tuple[str, Callable[..., torch.Tensor], int]] = [
    ("davidson", lambda a, b, c: davidson(a, b, T([True, False, False]), c[0], confidence=0.7), 3),
    ("rao_kupper", lambda a, b, c: rao_kupper(a, b, T([True, False, False]), c[0].exp(), confidence=0.7), 3),
    ("thurstone", lambda a, b, c, d: thurstone(a, b, c, d), 4),
    ("gaussian_nll", lambda a, b, c: gaussian_nll(a, b, c, counts=3.0), 3),
    ("ordinal", lambda a, b: ordinal(a, T([0, 1, 3]), increasing(b)), 2),
    ("step_bce", lambda a, b: step_bce(a[None], torch.sigmoid(b)[None], T([[True, False, True]])), 2),
]


@pytest.mark.parametrize(("loss", "count"), [case[1:] for case in GRADIENTS], ids=[case[0] for case in GRADIENTS])
def test_gradients_are_those_of_finite_differences(loss: Callable[..., torch.Tensor], count: int) -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.randn(3, dtype=DOUBLE, generator=generator).requires_grad_() for _ in range(count)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_losses_without_labels_are_zero_with_a_zero_gradient() -> None:
    scores = torch.zeros(0, requires_grad=True)
    none = torch.zeros(0, dtype=torch.bool)
    total = davidson(scores, scores, none, 0.0) + rao_kupper(scores, scores, none, 1.0)
    total = total + squared_error(scores, scores) + ordinal(scores, torch.zeros(0, dtype=torch.int64), T([0.0]))
    total.backward()
    assert total.item() == 0.0


def test_shapes_that_disagree_name_the_tensors() -> None:
    with pytest.raises(ShapeError, match=r"`losses` \(2,\), `weights` \(3,\)"):
        weighted_mean(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ShapeError, match=r"`means` \(2,\), `log_stds` \(1,\)"):
        gaussian_nll(torch.zeros(2), torch.zeros(1), torch.zeros(2))
