"""Worlds of several processes without processes: each is a thread, and they meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from textenv.training.world import World


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.brought: list[Any] = [None] * size


class ThreadWorld(World):
    """One of several threads that behave as processes."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        self.size = len(meeting.brought)
        self._meeting = meeting

    def gather_objects(self, value: Any) -> list[Any]:
        self._meeting.barrier.wait()
        self._meeting.brought[self.rank] = value
        self._meeting.barrier.wait()
        return list(self._meeting.brought)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather_objects(tensor.detach().clone())).sum(0)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.gather_objects(tensor.detach().clone()))

    def barrier(self) -> None:
        self.gather_objects(None)


def in_parallel(make_policy: Callable[[int], Any], size: int, work: Callable[[World, Any], Any]) -> list[Any]:
    """What ``work(world, policy)`` returns in each of ``size`` threads; the first error of any is raised.

    The policies are made beforehand: their weights come from the global generator, which threads share.
    """
    meeting, found, errors = _Meeting(size), [None] * size, []
    policies = [make_policy(rank) for rank in range(size)]

    def run(rank: int) -> None:
        try:
            found[rank] = work(ThreadWorld(rank, meeting), policies[rank])
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return found
