from __future__ import annotations

import math

import pytest
import torch

from agents.formulas.losses import clipped_policy_loss, clipped_value_loss, ratio_figures, token_weights
from textenv.errors import ShapeError


def test_policy_loss_equal_policies_is_minus_advantage():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    log_ratio = logprobs - logprobs.detach()
    loss = clipped_policy_loss(log_ratio.exp(), torch.tensor([[3.0, -1.0]]), clip_range=0.2)
    assert loss.tolist() == [[-3.0, 1.0]]
    figures = {name: figure.tolist() for name, figure in ratio_figures(log_ratio, clip_range=0.2).items()}
    zeros = [[0.0, 0.0]]
    assert figures == {"policy/ratio": [[1.0, 1.0]], "policy/approx_kl": zeros, "policy/clip_fraction": zeros}
    loss.mean().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.5, 0.5]]))  # −A/n: the policy gradient


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8)],
    ids=["gain clipped", "gain not clipped", "loss not clipped", "loss clipped"],
)
def test_policy_loss_clips_only_what_would_help(ratio: float, advantage: float, expected: float):
    log_ratio = torch.full((1, 1), math.log(ratio))
    loss = clipped_policy_loss(log_ratio.exp(), torch.full((1, 1), advantage), clip_range=0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert ratio_figures(log_ratio, clip_range=0.2)["policy/clip_fraction"].item() == 1


def test_value_loss_takes_the_larger_of_clipped_and_unclipped():
    # Moved from 0 to 1 towards the return 1: unclipped error 0, clipped at 0.2 leaves 0.8² = 0.64.
    one = torch.ones(1, 2)
    torch.testing.assert_close(clipped_value_loss(one, 0 * one, one, clip_range_vf=0.2), 0.32 * one)
    assert (clipped_value_loss(one, 0 * one, one, clip_range_vf=None) == 0).all()


def test_losses_wrong_shape_names_the_tensor():
    with pytest.raises(ShapeError, match="`advantages` has shape"):
        clipped_policy_loss(torch.ones(1, 2), torch.zeros(1, 3), clip_range=0.2)
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
    log_ratio = torch.tensor([[1.25, 0.75]]).log()
    loss = clipped_policy_loss(log_ratio.exp(), torch.tensor([[1.0, -1.0]]), clip_range=0.2, clip_range_high=0.3)
    torch.testing.assert_close(loss, torch.tensor([[-1.25, 0.8]]))
    figures = ratio_figures(log_ratio, clip_range=0.2, clip_range_high=0.3)
    assert figures["policy/clip_fraction"].tolist() == [[0.0, 1.0]]
