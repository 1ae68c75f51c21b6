"""The loop under everything that is trained: the learners that play, DPO, fine-tuning, pre-training and reward models.

What is trained is a :class:`Trainable`: it computes a step's gradients and calls :meth:`Trainer.optimize`. What is
around that stands here, once: the learning rate, gradients of all processes, clipping, the check that numbers are
finite, the step, evaluation, the log, progress, checkpoints and going on from them. Left out is what makes a
kind of training: its data, its loss, what it measures, and what it keeps of its best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from textenv.checkpoints import Checkpoints, load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError, RunCheckError
from textenv.progress import StageProgress
from textenv.runs import Run
from textenv.training.settings import TrainingSettings
from textenv.training.world import World, full, place_like


class State(NamedTuple):
    """What decides how a training goes on.

    Attributes:
        tensors: By name.
        meta: Everything else, JSON-able.
    """

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


class Trainable(Protocol):
    """What a trainer asks of what it trains."""

    @property
    def tokens(self) -> int:
        """Tokens handled so far, for the rate that is shown."""
        ...

    def iterate(self, learning_rate: float, /) -> dict[str, float]:
        """Take one step, counting it in :attr:`Trainer.step`; returns its figures, ``group/name``."""
        ...

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Figures on what is held out; empty where there is nothing. ``last`` is True at the end of training."""
        ...

    def shown(self, figures: Mapping[str, float], /) -> dict[str, float]:
        """The figures of a step that stand in the line of progress."""
        ...

    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """All that is trained, under the names that it has in checkpoints."""
        ...

    def get_state(self) -> State:
        """What else decides how training goes on."""
        ...

    def set_state(self, state: State, folder: Path, /) -> None:
        """Put back what :meth:`get_state` gave.

        Raises:
            CheckpointError: If it belongs to something else; names the folder.
        """
        ...


class Best:
    """The best value measured so far; larger is better.

    Attributes:
        value: None before the first.
        step: Steps after which it was measured.
        worse: Measurements since then.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self.step = 0
        self.worse = 0

    def see(self, value: float, step: int) -> bool:
        """Take note of a measurement; returns whether it is the best."""
        if self.value is not None and value <= self.value:
            self.worse += 1
            return False
        self.value, self.step, self.worse = value, step, 0
        return True


class Trainer:
    """Takes the steps of something that is trained, and keeps its run.

    Args:
        trained: What is trained.
        settings: Learning rate, clipping, and when to evaluate, log and checkpoint.
        optimizer: Of the trained weights; a parameter group's ``factor`` multiplies its learning rate.
        push: Called after weights have changed: where a copy computes, it gets them here.
        run: Logs, progress and checkpoints.
        stage: Name in the logs and of the folder in the run.
        world: The processes that train together.

    Attributes:
        step: Steps taken, those before a resume included.
        updates: Optimiser steps taken.
        best: What the evaluations were at their best, kept here for whoever measures it.
    """

    def __init__(
        self,
        trained: Trainable,
        settings: TrainingSettings,
        optimizer: torch.optim.Optimizer,
        *,
        push: Callable[[], None],
        run: Run | None,
        stage: str,
        world: World,
    ) -> None:
        self.trained = trained
        self.settings = settings
        self.optimizer = optimizer
        self.push = push
        self.run = run
        self.stage = stage
        self.world = world
        self.step = 0
        self.updates = 0
        self.best = Best()
        self._began: tuple[float, int] | None = None  # time and tokens
        self._unfinished: dict[str, float] | None = None  # figures of a step that is still to be evaluated

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        steps: int,
        *,
        offset: float = 0.0,
        finished: Callable[[], bool] = lambda: False,
        callbacks: Sequence[Callable[[Any, dict[str, float]], None]] = (),
    ) -> None:
        """Take steps until there are so many in all, those before a resume included.

        Where evaluation or a callback fails, the next call goes on with it: no step is taken twice.

        Args:
            steps: Also the horizon of the learning-rate schedule.
            offset: Added to both for the schedule, where earlier steps were larger or smaller than these.
            finished: Whether to stop before, asked after every step.
            callbacks: Called with what is trained and its figures after every step; what they add is logged.

        Raises:
            RunCheckError: If a figure stops being finite.
        """
        settings, trained = self.settings, self.trained
        console = self.run.console if self.run is not None and self.world.is_main else None
        self._began = (time.monotonic(), trained.tokens)
        with StageProgress(self.stage, steps, console, start=self.step) as progress:
            while self._unfinished is not None or (self.step < steps and not finished()):
                if self._unfinished is None:
                    rate = settings.learning_rate_at(self.step + offset, steps + offset)
                    self.optimizer.zero_grad(set_to_none=True)  # of a step that failed
                    self._unfinished = trained.iterate(rate)
                figures, last = self._unfinished, self.step >= steps
                evaluated: dict[str, float] = {}
                if last or (settings.eval_every and self.step % settings.eval_every == 0):
                    began = time.monotonic()
                    evaluated = trained.evaluate(last=last)
                    if evaluated:
                        figures |= evaluated | {"time/evaluation_seconds": time.monotonic() - began}
                self._unfinished = None
                for callback in callbacks:
                    callback(trained, figures)
                progress.update(
                    self.step, trained.shown(figures) if console else None, tokens=trained.tokens - self._began[1]
                )
                if self.run is None:
                    continue
                if self.world.is_main and (evaluated or last or self.step % settings.log_every == 0):
                    self.run.log(self.stage, self.step, figures)
                if self.step % settings.checkpoint_every == 0 or last:
                    self.checkpoint()

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second since the loop began."""
        began, before = self._began or (time.monotonic(), self.trained.tokens)
        return (self.trained.tokens - before) / max(time.monotonic() - began, 1e-9)

    def optimize(
        self, learning_rate: float, figures: Mapping[str, float], *, blame: Callable[[], str] = lambda: ""
    ) -> float:
        """Take the optimiser step that the gradients of all processes add up to.

        Args:
            learning_rate: Of this step.
            figures: What must be finite beside the gradient, the same in all processes.
            blame: Says in which rows, where something is not finite: ``", in row 3"``.

        Returns:
            The gradient's norm before clipping.

        Raises:
            RunCheckError: If a figure or the norm is not finite; the weights are as before then.
        """
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.world.reduce_gradients(weights)
        norm = float(full(torch.nn.utils.clip_grad_norm_(weights, self.settings.max_grad_norm)))
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        broken += [] if math.isfinite(norm) else ["the gradient's norm"]
        if broken:
            raise RunCheckError(
                f"{self.stage}, update of step {self.step}: {', '.join(broken)} is not finite{blame()}; the weights "
                f"were not changed by this step; last good checkpoint: {self.last_checkpoint or 'none'}; lower "
                "`learning_rate`"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("factor", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.push()
        self.updates += 1
        return norm

    # --- state on disk ------------------------------------------------------------------------------------------------

    def checkpoints(self, run: Run) -> Checkpoints:
        """The numbered checkpoints of this stage."""
        return run.checkpoints(self.stage, keep=self.settings.keep_checkpoints)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest one, or None."""
        return None if self.run is None else self.checkpoints(self.run).latest()

    def checkpoint(self) -> None:
        """Write the checkpoint of this step; all processes take part, the first writes."""
        if self.run is None:
            return
        state = self.state()
        if self.world.is_main:
            self.checkpoints(self.run).save(self.step, lambda folder: save_state(folder, *state))
        self.world.barrier()

    def resume(self) -> None:
        """Go on from the run's newest checkpoint, where there is one and no step has been taken yet.

        Raises:
            CheckpointError: If another process works in the run's folder, or the checkpoint cannot be read.
        """
        if self.run is None:
            return
        if self.world.is_main:
            self.run.lock()
        if self.step:
            return
        self.world.barrier()
        latest = self.last_checkpoint
        if latest is not None:
            self.read(latest)
        if self.world.is_main:
            self.run.rewind(self.stage, self.step)
        self.world.barrier()

    def state(self) -> State:
        """All that decides how training goes on; all processes take part, each gets all of it."""
        own = self.trained.get_state()
        tensors = dict(self.trained.weights()) | own.tensors | optimizer_tensors(self.optimizer)
        meta = {"step": self.step, "updates": self.updates, "best": vars(self.best), **own.meta}
        return State({name: full(tensor.detach()) for name, tensor in tensors.items()}, meta)

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """Put back what :meth:`checkpoint` wrote, or :func:`textenv.checkpoints.save_state` of :meth:`state`.

        Raises:
            CheckpointError: If the folder is damaged or does not fit what is trained.
        """
        state = State(*load_state(folder))
        self.trained.set_state(state, folder)
        for name, weight in self.trained.weights():
            saved = state.tensors.get(name)
            if saved is None or saved.shape != weight.shape:
                raise CheckpointError(f"`{folder}` does not fit this model (weight `{name}`)")
            weight.copy_(place_like(weight, saved))
        parameters = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        placed = {
            name: place_like(parameters[int(name.split("/")[1])], tensor)
            for name, tensor in state.tensors.items()
            if name.startswith("optimizer/")
        }
        load_optimizer_tensors(self.optimizer, placed)
        self.push()
        self._count_from(state.meta)

    def _count_from(self, meta: Mapping[str, Any]) -> None:
        """Counters of a checkpoint, in the form of earlier versions too."""
        self.step = int(meta.get("step", meta.get("iteration", 0)))
        self.updates = int(meta.get("updates", self.step))
        best = meta.get("best")
        if isinstance(best, Mapping):
            vars(self.best).update(best)
        elif best is not None:
            self.best.value = float(best)
        elif "best_loss" in meta:
            self.best.value, self.best.step, self.best.worse = -meta["best_loss"], meta["best_step"], meta["worse"]


def make_optimizer(
    weights: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; without any it is Adam.

    Args:
        weights: Those that take a gradient.
        learning_rate: Peak.
        weight_decay: Of matrices.
        betas: Decay of the two moments.
        eps: Added to the root of the second.
    """
    trained = [weight for weight in weights if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": 0.0}]
    if weight_decay:
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
    fused = all(weight.device.type in ("cpu", "cuda") for weight in trained) or None
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=learning_rate, betas=betas, eps=eps, fused=fused)
