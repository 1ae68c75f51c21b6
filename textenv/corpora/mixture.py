"""Mixtures of tasks: which block of which task a step of training sees, as a function of seed, step and rank alone.

Shares are weights, or the tasks' sizes tempered by p ∝ n^(1/T) (Devlin et al. 2019's multilingual BERT; Raffel et al.
2020, arXiv:1910.10683, section 3.5.2), fixed or on a schedule. Nothing is stored: a resumed run, or one of several
processes, computes what an uninterrupted one would see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from textenv.corpora.permutation import Permutation
from textenv.errors import ConfigError, DataError
from textenv.settings import PositiveFloat, Settings, UnitFloat

_GOLDEN = 0.6180339887498949
_STEPS_AT_ONCE = 65_536


@dataclass(frozen=True)
class MixturePoint(Settings):
    """Shares at one moment of a schedule.

    Attributes:
        at: The moment, as a share of training from 0 to 1.
        weights: Share of each task; empty takes sizes and temperature.
        temperature: T of p ∝ n^(1/T), where there are no weights.
    """

    at: UnitFloat
    weights: dict[str, float] = field(default_factory=dict)
    temperature: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights(self.weights)


@dataclass(frozen=True)
class MixtureConfig(Settings):
    """Shares of tasks in training, counted in tokens.

    Attributes:
        weights: Share of each task, not necessarily summing to 1; 0 leaves one out. Empty takes sizes and temperature.
        temperature: T of p ∝ n^(1/T) with n the task's tokens: 1 is proportional, large T is uniform.
        schedule: Moments between which shares move along straight lines; empty keeps them fixed.

    Raises:
        ConfigError: If a weight is negative, a temperature not positive, or the moments do not ascend in 0 … 1.
    """

    weights: dict[str, float] = field(default_factory=dict)
    temperature: PositiveFloat = 1.0
    schedule: list[MixturePoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights(self.weights)
        moments = [point.at for point in self.schedule]
        if moments != sorted(set(moments)):
            raise ConfigError(f"a schedule's moments must ascend from 0 to 1, got {moments}")


def _check_weights(weights: Mapping[str, float]) -> None:
    if not all(0 <= weight < math.inf for weight in weights.values()) or (weights and not any(weights.values())):
        raise ConfigError(f"mixture weights must be ≥ 0 and not all 0, got {weights}")


def mixture_shares(sizes: Mapping[str, float], weights: Mapping[str, float], temperature: float) -> NDArray[np.float64]:
    """Shares that sum to 1, in the order of ``sizes``.

    Args:
        sizes: Size of each task; the unit does not matter.
        weights: Share of each task; empty takes p ∝ n^(1/T).
        temperature: T.

    Raises:
        ConfigError: If the weights name other tasks.
    """
    if weights:
        if set(weights) != set(sizes):
            raise ConfigError(f"mixture weights name {sorted(weights)}, the tasks are {sorted(sizes)}")
        raw = np.array([weights[name] for name in sizes], np.float64)
    else:
        raw = np.array([float(n) for n in sizes.values()]) ** (1.0 / temperature)
    return raw / raw.sum()


class Mixture:
    """Draws of a mixture.

    Every step has ``draws_per_step`` draws. How many go to each task is the expected number rounded up or down by
    systematic sampling with an offset that moves by the golden ratio, so every stretch of steps has the asked shares
    as nearly as whole draws allow. Within a task, blocks come in a random order, each once before any comes again.

    Args:
        blocks: Number of blocks of each task.
        config: The shares.
        sizes: What the temperature acts on; None takes the blocks.
        draws_per_step: Of all processes together.
        steps: Length of training, for schedules.
        seed: Of the orders.

    Raises:
        DataError: If a task has no blocks, or there is no task.
        ConfigError: If the weights name other tasks.
    """

    def __init__(
        self,
        blocks: Mapping[str, int],
        config: MixtureConfig,
        *,
        draws_per_step: int,
        steps: int,
        seed: int,
        sizes: Mapping[str, float] | None = None,
    ) -> None:
        empty = [name for name, count in blocks.items() if count < 1]
        if empty or not blocks:
            raise DataError(f"no blocks for task(s): {', '.join(empty) or 'none given'}")
        self.names = sorted(blocks)
        self.draws_per_step = draws_per_step
        self._blocks = dict(blocks)
        self._seed = seed
        self._steps = max(1, steps)
        ordered = {name: float((sizes or blocks)[name]) for name in self.names}
        points = config.schedule or [MixturePoint(0.0, config.weights, config.temperature)]
        self._moments = np.array([point.at for point in points])
        self._shares = np.stack([mixture_shares(ordered, point.weights, point.temperature) for point in points])
        self._offset = float(np.random.default_rng(seed).random())
        self._done, self._counts = 0, np.zeros(len(self.names), np.int64)
        self._orders: dict[tuple[int, int], Permutation] = {}

    def shares(self, step: int) -> dict[str, float]:
        """The asked shares at a step (0-based)."""
        return dict(zip(self.names, self._shares_at(np.array([step]))[0].tolist(), strict=True))

    def counts(self, start: int, end: int) -> dict[str, int]:
        """How many draws each task gets in steps ``start … end - 1``."""
        total = self._step_counts(start, end).sum(0)
        return dict(zip(self.names, total.tolist(), strict=True))

    def draws(self, step: int, *, rank: int = 0, world: int = 1) -> list[tuple[str, int]]:
        """Task and block of each draw of a step, for one of several processes.

        Raises:
            ConfigError: If the draws of a step cannot be divided evenly.
        """
        if self.draws_per_step % world:
            raise ConfigError(f"{self.draws_per_step} sequences a step cannot be divided among {world} processes")
        before, now = self._before(step), self._step_counts(step, step + 1)[0]
        drawn = [
            (name, self._block(task, int(before[task]) + i))
            for task, name in enumerate(self.names)
            for i in range(int(now[task]))
        ]
        order = np.random.default_rng([self._seed, step, 7]).permutation(len(drawn))
        return [drawn[i] for i in order[rank::world]]

    def _shares_at(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shares at some steps, ``(S, tasks)``."""
        progress = steps / self._steps
        return np.stack([np.interp(progress, self._moments, column) for column in self._shares.T], axis=1)

    def _step_counts(self, start: int, end: int) -> NDArray[np.int64]:
        """Draws of each task in each of some steps, ``(S, tasks)``."""
        steps = np.arange(start, end)
        edges = np.cumsum(self._shares_at(steps), axis=1) * self.draws_per_step
        edges[:, -1] = self.draws_per_step
        offsets = (self._offset + steps * _GOLDEN) % 1.0
        return np.diff(np.floor(edges + offsets[:, None]).astype(np.int64), axis=1, prepend=0)

    def _before(self, step: int) -> NDArray[np.int64]:
        """Draws of each task in all earlier steps; quick when steps come in order."""
        if step < self._done:
            self._done, self._counts = 0, np.zeros(len(self.names), np.int64)
        while self._done < step:
            end = min(step, self._done + _STEPS_AT_ONCE)
            self._counts = self._counts + self._step_counts(self._done, end).sum(0)
            self._done = end
        return self._counts

    def _block(self, task: int, number: int) -> int:
        size = self._blocks[self.names[task]]
        epoch, index = divmod(number, size)
        if (task, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != task or key[1] >= epoch - 1}
            self._orders[task, epoch] = Permutation(size, (self._seed, task, epoch))
        return self._orders[task, epoch][index]
