from __future__ import annotations

import math

import pytest
import torch

from agents.losses import clipped_policy_loss, clipped_value_loss, token_weights
from textenv.errors import ShapeError

ALL = torch.ones(1, 2, dtype=torch.bool)


def test_policy_loss_equal_policies_is_minus_advantage():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    found = clipped_policy_loss(logprobs, logprobs.detach(), torch.tensor([[3.0, -1.0]]), ALL, clip_range=0.2)
    assert found.loss.tolist() == [[-3.0, 1.0]]
    assert found.ratio.tolist() == [[1.0, 1.0]]
    assert found.approx_kl.tolist() == found.clipped.tolist() == [[0.0, 0.0]]
    found.loss.mean().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.5, 0.5]]))  # −A/n: the policy gradient


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8)],
    ids=["gain clipped", "gain not clipped", "loss not clipped", "loss clipped"],
)
def test_policy_loss_clips_only_what_would_help(ratio: float, advantage: float, expected: float):
    old = torch.zeros(1, 1)
    new = torch.full((1, 1), math.log(ratio))
    mask = torch.ones(1, 1, dtype=torch.bool)
    found = clipped_policy_loss(new, old, torch.full((1, 1), advantage), mask, clip_range=0.2)
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)
    assert found.clipped.item() == 1


def test_policy_loss_masked_nan_does_no_harm():
    logprobs = torch.tensor([[-1.0, torch.nan]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    found = clipped_policy_loss(logprobs, torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), mask, clip_range=0.2)
    found.loss.sum().backward()
    assert found.loss.tolist() == [[-2.0, 0.0]]
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


def test_value_loss_takes_the_larger_of_clipped_and_unclipped():
    # Moved from 0 to 1 towards the return 1: unclipped error 0, clipped at 0.2 leaves 0.8² = 0.64.
    one = torch.ones(1, 2)
    torch.testing.assert_close(clipped_value_loss(one, 0 * one, one, clip_range_vf=0.2), 0.32 * one)
    assert (clipped_value_loss(one, 0 * one, one, clip_range_vf=None) == 0).all()


def test_losses_wrong_shape_names_the_tensor():
    with pytest.raises(ShapeError, match="`advantages` has shape"):
        clipped_policy_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 3), ALL, clip_range=0.2)
    with pytest.raises(ShapeError, match="`returns` has shape"):
        clipped_value_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2, 2), clip_range_vf=0.2)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]),
        ("sequence_mean", [[1 / 6, 1 / 6, 1 / 6], [0.5, 0.0, 0.0]]),
        ("constant", [[0.1, 0.1, 0.1], [0.1, 0.0, 0.0]]),
    ],
)
def test_token_weights_hand_worked(aggregation, expected):
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = token_weights(mask, aggregation, tokens=4, rows=2, max_tokens=5)
    torch.testing.assert_close(found, torch.tensor(expected))
    # Micro-batches add up to the minibatch.
    apart = [token_weights(mask[i : i + 1], aggregation, tokens=4, rows=2, max_tokens=5) for i in range(2)]
    torch.testing.assert_close(torch.cat(apart), found)


def test_policy_loss_may_clip_further_above_than_below():
    new = torch.tensor([[math.log(1.25), math.log(0.75)]])
    found = clipped_policy_loss(
        new, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), ALL, clip_range=0.2, clip_range_high=0.3
    )
    torch.testing.assert_close(found.loss, torch.tensor([[-1.25, 0.8]]))
    assert found.clipped.tolist() == [[0.0, 1.0]]
