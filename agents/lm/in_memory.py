"""Cross-entropy training of a causal LM on sequences: examples in memory, mixtures of tasks, evaluation.

An example is a token sequence with a prompt length; the loss is taken on what follows the prompt. Pre-training uses a
prompt of one token (begin-of-text), fine-tuning the instruction. The order of the examples is a function of seed and
step alone, so a resumed run sees what an uninterrupted one sees. Corpora that memory does not hold are trained on by
:mod:`agents.lm.corpus`; the loop itself stands in :mod:`agents.lm.loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.lm.batches import Batch, Example, PackedBatch, check_packing, collate, token_losses
from agents.lm.config import LMConfig
from agents.lm.loop import LanguageModeling
from textenv.errors import ConfigError, DataError
from textenv.runs import Run

__all__ = [
    "Example",
    "LMConfig",
    "MixtureBatches",
    "collate",
    "evaluate_lm",
    "token_losses",
    "train_lm",
]

_POOL_BATCHES = 16  # batches that are drawn together and cut by length


class MixtureBatches:
    """Batches of a weighted mixture of tasks, as a function of the step.

    Sixteen batches are drawn at a time, ordered by length and cut, so a batch has little padding; their order is then
    shuffled. Within a task, examples come without replacement until all have been seen.

    Args:
        tasks: Examples of each task.
        weights: Share of examples drawn from each task; None means proportional to their number.
        batch_size: Sequences per batch.
        seed: Everything random here depends on it and on the step.

    Raises:
        DataError: If a task has no examples.
        ConfigError: If the weights name another set of tasks, or are not positive.
    """

    def __init__(
        self,
        tasks: Mapping[str, Sequence[Example]],
        weights: Mapping[str, float] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.names = sorted(tasks)
        empty = [name for name in self.names if not tasks[name]]
        if empty or not tasks:
            raise DataError(f"no examples for task(s): {', '.join(empty) or 'none given'}")
        weights = weights or {name: float(len(tasks[name])) for name in self.names}
        if set(weights) != set(self.names) or min(weights.values()) <= 0:
            raise ConfigError(f"task weights {dict(weights)} must be positive and name exactly {self.names}")
        self.tasks = tasks
        self.shares = np.array([weights[name] for name in self.names]) / sum(weights.values())
        self.batch_size = batch_size
        self.seed = seed
        self._pool: list[list[Example]] = []
        self._pool_number = -1
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._counted = (0, np.zeros(len(self.names), np.int64))  # draws of each task before a place in the sequence

    def batch(self, step: int) -> list[Example]:
        """The examples of a step (0-based)."""
        number, index = divmod(step, _POOL_BATCHES)
        if number != self._pool_number:
            self._pool, self._pool_number = self._draw_pool(number), number
        return self._pool[index]

    def _draw_pool(self, number: int) -> list[list[Example]]:
        rng = np.random.default_rng([self.seed, number])
        size = _POOL_BATCHES * self.batch_size
        # Position p of the endless sequence belongs to the task whose cumulative share holds a low-discrepancy point,
        # so every stretch of it has the asked proportions.
        drawn = [self._example(name, position) for name, position in self._positions(number * size, size)]
        drawn.sort(key=lambda example: len(example.tokens))
        batches = [drawn[i * self.batch_size : (i + 1) * self.batch_size] for i in range(_POOL_BATCHES)]
        return [batches[i] for i in rng.permutation(_POOL_BATCHES)]

    def _positions(self, start: int, count: int) -> list[tuple[str, int]]:
        """Task and running number within the task of ``count`` draws from the endless sequence."""
        edges = np.cumsum(self.shares)
        edges[-1] = 1.0

        def counts(first: int, last: int) -> NDArray[np.int64]:
            places = (np.arange(first, last) * 0.6180339887498949) % 1.0  # the golden ratio
            return np.bincount(np.searchsorted(edges, places, side="right"), minlength=len(edges))

        known, before = self._counted
        # The pool that comes next needs what came since; one before it, or the first of a resumed run, all from 0 on.
        before = before + counts(known, start) if known <= start else counts(0, start)
        here = counts(start, start + count)
        self._counted = (start, before)
        return [(name, int(n) + i) for name, n, more in zip(self.names, before, here, strict=True) for i in range(more)]

    def _example(self, name: str, position: int) -> Example:
        examples = self.tasks[name]
        epoch, index = divmod(position, len(examples))
        return examples[self._order(name, epoch)[index]]

    def _order(self, name: str, epoch: int) -> NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._orders:
            # Two epochs of a task can meet in one pool; older ones are not needed again.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != name or k[1] >= epoch - 1}
            rng = np.random.default_rng([self.seed, self.names.index(name), epoch, 1])
            self._orders[key] = rng.permutation(len(self.tasks[name]))
        return self._orders[key]


class _Parts:
    """A mixture's batches as the loop wants them: divided, and padded or packed."""

    def __init__(self, batches: MixtureBatches, size: int | None, packed_length: int, device: Any) -> None:
        self._batches, self._size, self._length = batches, size, packed_length
        self._device = device

    def parts(self, step: int) -> list[Batch]:
        """The parts of a step's batch; examples of similar length stay together."""
        examples = self._batches.batch(step)
        size = self._size or len(examples)
        groups = [examples[i : i + size] for i in range(0, len(examples), size)]
        if self._length:
            return [PackedBatch.from_examples(group, self._length, device=self._device) for group in groups]
        return [collate(group, self._device) for group in groups]


@torch.no_grad()
def evaluate_lm(model: Any, examples: Sequence[Example], *, batch_size: int = 128) -> float:
    """Mean loss in nats per counted token over all examples (a mean over tokens, not over batches)."""
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    device = model.get_input_embeddings().weight.device
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        losses = token_losses(model, collate(ordered[start : start + batch_size], device))
        total += float(losses.double().sum())
        count += len(losses)
    return total / count


def train_lm(
    model: Any,
    tasks: Mapping[str, Sequence[Example]],
    validation: Mapping[str, Sequence[Example]],
    config: LMConfig,
    *,
    weights: Mapping[str, float] | None = None,
    packed_length: int = 0,
    on_evaluate: Callable[[int, Any], None] | None = None,
    run: Run | None = None,
    stage: str = "pretrain",
) -> dict[str, float]:
    """Train a causal LM by cross-entropy on the targets of a mixture of tasks.

    Dropout stays off, so that steps repeat exactly.

    Args:
        model: Transformers causal LM, trained in place; left in evaluation mode.
        tasks: Training examples of each task.
        validation: Held-out examples of each task.
        config: Settings.
        weights: Share of each task; None means proportional to their number.
        packed_length: Tokens of a row that several examples share, none seeing another; 0 gives each a row of its own.
        on_evaluate: Called with step and model after each evaluation, such as for samples.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs.

    Returns:
        Held-out loss in nats per token, ``{"<task>": loss, …}``.

    Raises:
        RunCheckError: If the loss stops being finite; the message names the step.
        ConfigError: If the model cannot keep packed examples apart.
    """
    if packed_length:
        check_packing(model)
    device = model.get_input_embeddings().weight.device
    source = _Parts(
        MixtureBatches(tasks, weights, config.batch_size, config.seed), config.micro_batch_size, packed_length, device
    )
    training = LanguageModeling(
        model,
        source,
        config,
        held_out=lambda trained, last: _held_out(trained, validation),
        on_evaluate=on_evaluate,
        run=run,
        stage=stage,
    )
    trained = training.train()
    return {name: evaluate_lm(trained, examples) for name, examples in validation.items()}


def _held_out(model: Any, validation: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    losses = {name: evaluate_lm(model, examples[:256]) for name, examples in validation.items()}
    metrics = {"eval/loss": sum(losses.values()) / len(losses)}
    if len(losses) > 1:
        metrics |= {f"eval/loss/{name}": loss for name, loss in losses.items()}
        metrics |= {f"eval/perplexity/{name}": math.exp(loss) for name, loss in losses.items()}
    return metrics
