"""An iteration's episodes as minibatches of micro-batches, dealt alike by all processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from agents.learning.rollouts import Rollout
from agents.policy.forward import SequenceBatch
from textenv.training.world import World


@dataclass(frozen=True)
class MicroBatch:
    """Sequences that go through one forward and backward pass.

    Attributes:
        rows: Their rows in this process's rollout.
        batch: Their tokens.
        is_filler: True where this process has fewer sequences in the minibatch than another and only keeps step with
            it; counts for nothing.
    """

    rows: NDArray[np.int64]
    batch: SequenceBatch
    is_filler: bool = False


@dataclass(frozen=True)
class MiniBatch:
    """Sequences of one optimiser step.

    Attributes:
        parts: This process's share.
        rows: Sequences that count, in all processes.
        tokens: Tokens of theirs that the policy chose.
    """

    parts: list[MicroBatch]
    rows: int
    tokens: float


def deal(
    rollout: Rollout,
    *,
    num_minibatches: int,
    micro_batch_size: int,
    rng: np.random.Generator,
    world: World,
    device: torch.device,
    counted: NDArray[np.bool_] | None = None,
) -> list[MiniBatch]:
    """Deal the rows of all processes into minibatches at random, each cut into micro-batches of similar length.

    The same micro-batches serve the old log-probs and every epoch, so that the first ratio is exactly 1. Which rows
    meet in a minibatch depends on the generator and the number of rows in all, not on how many processes share them.

    Args:
        rollout: This process's rows; every process has as many.
        num_minibatches: How many.
        micro_batch_size: Most sequences of a micro-batch.
        rng: In the same state on every process.
        world: The processes.
        device: Where the tokens go.
        counted: True on the rows that the loss is a mean of, shape ``(N,)``; None means all.
    """
    counted = np.ones(len(rollout.lengths), np.bool_) if counted is None else counted
    rows_each = len(rollout.lengths)
    minibatches = []
    for rows in np.array_split(rng.permutation(rows_each * world.size), num_minibatches):
        counts = np.bincount(rows // rows_each, minlength=world.size)
        pieces = math.ceil(counts.max() / micro_batch_size)
        mine = rows[rows // rows_each == world.rank] - world.rank * rows_each
        ordered = mine[np.argsort(rollout.lengths[mine], kind="stable")]
        parts = [_micro_batch(rollout, part, device) for part in np.array_split(ordered, pieces)]
        learned = mine[counted[mine]]
        totals = world.sum(torch.tensor([len(learned), rollout.action_mask[learned].sum()], dtype=torch.float64))
        minibatches.append(MiniBatch(parts, int(totals[0]), float(totals[1])))
    return minibatches


def _micro_batch(rollout: Rollout, rows: NDArray[np.int64], device: torch.device) -> MicroBatch:
    if not len(rows):
        return MicroBatch(np.zeros(1, np.int64), rollout.batch(np.zeros(1, np.int64), device), is_filler=True)
    return MicroBatch(rows, rollout.batch(rows, device))
