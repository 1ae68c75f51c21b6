"""The processes that share a learner's work; one process is a world of its own.

Started by ``accelerate launch`` or ``torchrun``, every process runs the same program. Each plays its share of an
iteration's episodes, and sums over the world make losses, statistics and updates those of one process that plays all.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed

_BUCKET_ELEMENTS = 32_000_000  # gradients that are sent together: 128 MB in float32


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


class World:
    """One process alone; what others do to it in a larger world is done by its subclasses' primitives.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        sharded: Whether FSDP divides the weights: it then averages gradients by itself.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @staticmethod
    def current(device: torch.device) -> World:
        """The world that this process was started in: by a launcher, or alone.

        A process group that exists already (an ``Accelerator`` made one) is used; otherwise the launcher's environment
        variables say how to join.

        Args:
            device: Where the policy is, on GPUs a different one for each process; decides how processes talk to each
                other.
        """
        if not distributed.is_available():
            return World()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return World()
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            if device.type != "cuda":  # gloo's threads abort a process that ends under them
                atexit.register(_leave)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return Processes(device) if distributed.get_world_size() > 1 else World()

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def loss_scale(self) -> float:
        """What a process's share of a loss is multiplied by, so that reduced gradients are sums."""
        return float(self.size) if self.sharded else 1.0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All processes' rows, in the order of ranks; every process has as many."""
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """Something from each process, in the order of ranks."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def share_weights(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values."""
        with torch.no_grad():
            for tensor in tensors if self.size > 1 else ():
                tensor.copy_(self.sum(tensor if self.is_main else torch.zeros_like(tensor)))

    def reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over all processes; all must have them for the same parameters."""
        gradients = [p.grad for p in parameters if p.grad is not None] if self.size > 1 and not self.sharded else []
        for bucket in _buckets(gradients):
            total = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, part in zip(bucket, total.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


class Processes(World):
    """The processes of ``torch.distributed``'s default group.

    Args:
        device: Where tensors are sent from; results come back to where they were.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._device = device

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        total = tensor.detach().to(self._device, copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All processes' rows, in the order of ranks."""
        flat = tensor.detach().to(self._device).contiguous()
        found = [torch.empty_like(flat) for _ in range(self.size)]
        distributed.all_gather(found, flat)
        return torch.cat(found).to(tensor.device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Something from each process, in the order of ranks."""
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait until all processes are here."""
        distributed.barrier()


def _buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Tensors of one data type each, together not much larger than a bucket."""
    found: list[list[torch.Tensor]] = []
    size = 0
    for tensor in tensors:
        if not found or size >= _BUCKET_ELEMENTS or found[-1][0].dtype != tensor.dtype:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += tensor.numel()
    return found


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may hold a part; all processes call it together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def place_like(parameter: torch.Tensor, saved: torch.Tensor) -> torch.Tensor:
    """A whole tensor, divided as a parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or saved.shape != parameter.shape:
        return saved
    return distribute_tensor(saved.to(parameter.device), parameter.device_mesh, parameter.placements)
