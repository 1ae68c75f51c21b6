"""What the losses share: a weighted mean that is 0, never NaN, where there is nothing to learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from textenv.errors import ShapeError


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The weighted mean of losses, a scalar; 0 (with a gradient of 0) where there is nothing, or only weights of 0.

    Args:
        losses: Any shape.
        weights: Not negative, of the same shape; all 1 for None.

    Raises:
        ShapeError: If the shapes disagree.
    """
    if weights is None:
        return losses.sum() / max(losses.numel(), 1)
    same_shape(losses=losses, weights=weights)
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def same_shape(**tensors: Tensor) -> None:
    """Check that tensors, named as the caller knows them, have one shape.

    Raises:
        ShapeError: If they have not; the message holds every name and shape.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        got = ", ".join(f"`{name}` {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ShapeError(f"{' and '.join(f'`{name}`' for name in tensors)} must have one shape, got {got}.")
