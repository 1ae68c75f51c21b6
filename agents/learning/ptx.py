"""Pre-training batches for mixing language-modelling gradients into the update (InstructGPT's PPO-ptx)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.lm.in_memory import Example, collate
from agents.policy import CausalLMPolicy
from textenv.errors import DataError
from textenv.training.world import World

Batch = Sequence[Example] | NDArray[np.int64]
"""Examples with prompt lengths; or token ids, ``(B, L)``, whose first column carries no loss."""


class BatchSource(Protocol):
    """Batches as a function of the step, such as :class:`agents.lm.in_memory.MixtureBatches`."""

    def batch(self, step: int, /) -> Sequence[Example]:
        """The examples of a step (0-based)."""
        ...


class PtxBatches:
    """Numbered batches from whatever gives them.

    Args:
        source: A source with ``batch(step)``; a sequence of batches, gone through again and again; or an iterable,
            which is begun anew when it is exhausted. A resumed run goes on with the batch that comes next; an iterable
            is wound forward for that.
    """

    def __init__(self, source: BatchSource | Sequence[Batch] | Iterable[Batch]) -> None:
        self._source: Any = source
        self._iterator: Iterator[Batch] = iter(())
        self._next = 0

    def batch(self, number: int) -> list[Example]:
        """The examples of a batch (0-based).

        Raises:
            DataError: If there is none.
        """
        if hasattr(self._source, "batch"):
            given = self._source.batch(number)
        elif hasattr(self._source, "__getitem__") and len(self._source):
            given = self._source[number % len(self._source)]
        else:
            given = self._wind_to(number)
        examples = [e if isinstance(e, Example) else Example(np.asarray(e, np.int64), 1) for e in given]
        if not examples or min(len(example.tokens) - example.prompt_length for example in examples) < 1:
            raise DataError(f"`ptx` batch {number} is empty or holds a sequence without a token to predict")
        return examples

    def _wind_to(self, number: int) -> Batch:
        if number < self._next or not self._next:
            self._iterator, self._next = iter(self._source), 0
        batch: Batch | None = None
        while self._next <= number:
            batch = next(self._iterator, None)
            batch = self._again() if batch is None else batch
            self._next += 1
        assert batch is not None
        return batch

    def _again(self) -> Batch:
        self._iterator = iter(self._source)
        first = next(self._iterator, None)
        if first is None:
            raise DataError("`ptx` gives no batches; a generator can be gone through only once: give a list")
        return first


def ptx_backward(
    policy: CausalLMPolicy, examples: Sequence[Example], *, coef: float, micro_batch_size: int, world: World
) -> torch.Tensor:
    """Add the gradient of ``coef`` times the mean loss per token; every process takes its share of the examples.

    Args:
        policy: Whose gradients are added to.
        examples: Of all processes.
        coef: Weight.
        micro_batch_size: Sequences per forward and backward pass.
        world: The processes.

    Returns:
        This process's share of the mean loss, nats per token, a scalar.
    Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, eq. 2.
    """
    tokens = sum(len(example.tokens) - example.prompt_length for example in examples)
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    share = torch.zeros((), device=policy.device)
    step = micro_batch_size * world.size
    for start in range(0, len(ordered), step):
        # Every process makes as many passes; one without an example repeats the first and counts it for nothing.
        mine = ordered[start : start + step][world.rank :: world.size]
        logprobs = policy.evaluate(collate(mine or ordered[:1], policy.device), values=False).logprobs
        loss = -logprobs.sum() * (bool(mine) / tokens)
        (coef * world.loss_scale * loss).backward()
        policy.pull_gradients()
        share += loss.detach()
    return share
