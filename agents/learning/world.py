"""The processes that share a learner's work; one process is a world of its own."""

from __future__ import annotations

import torch


class World:
    """One process alone.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All processes' rows, in the order of ranks."""
        return tensor

    def reduce_gradients(self, module: torch.nn.Module) -> None:
        """Sum the gradients of a module's parameters over all processes."""
