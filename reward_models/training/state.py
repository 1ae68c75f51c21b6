"""What a training run remembers: checkpoints for resuming, and the best weights for early stopping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from reward_models.training.objectives import Learned
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError
from textenv.runs import Run


class Best:
    """The weights with the smallest held-out loss so far.

    Attributes:
        loss: Their loss; infinite before the first measurement.
        step: Steps after which they were reached.
        worse: Measurements since then.
        tensors: The weights by name; empty before the first measurement.
    """

    def __init__(self) -> None:
        self.loss = math.inf
        self.step = 0
        self.worse = 0
        self.tensors: dict[str, torch.Tensor] = {}

    def see(self, loss: float, step: int, model: torch.nn.Module, learned: Learned) -> None:
        """Take note of a measurement; keeps a copy of the weights if it is the best."""
        if loss < self.loss:
            self.loss, self.step, self.worse = loss, step, 0
            self.tensors = {name: weight.detach().clone() for name, weight in _trained(model, learned)}
        else:
            self.worse += 1

    def exhausted(self, patience: int) -> bool:
        """Whether so many measurements brought no smaller loss."""
        return self.worse >= patience

    @torch.no_grad()
    def restore(self, model: torch.nn.Module, learned: Learned) -> None:
        """Put the best weights back, if there were measurements."""
        for name, weight in _trained(model, learned):
            if name in self.tensors:
                weight.copy_(self.tensors[name])


def checkpoint(
    model: torch.nn.Module,
    learned: Learned,
    optimizer: torch.optim.Optimizer,
    best: Best,
    run: Run,
    stage: str,
    step: int,
) -> None:
    """Write a checkpoint of the stage."""

    def write(folder: Path) -> None:
        # Frozen weights are those of the trunk, which the resumed run starts from again.
        tensors = dict(_trained(model, learned)) | optimizer_tensors(optimizer)
        tensors |= {f"best/{name}": value for name, value in best.tensors.items()}
        meta = {"step": step, "best_step": best.step, "worse": best.worse}
        # JSON has no infinity.
        save_state(folder, tensors, meta | ({"best_loss": best.loss} if best.tensors else {}))

    run.checkpoints(stage).save(step, write)


def resume(
    model: torch.nn.Module,
    learned: Learned,
    optimizer: torch.optim.Optimizer,
    best: Best,
    run: Run | None,
    stage: str,
) -> int:
    """Load the newest checkpoint of the stage, if there is one; returns the step to go on with.

    Raises:
        CheckpointError: If it does not fit the model.
    """
    if run is None:
        return 0
    latest = run.checkpoints(stage).latest()
    step = 0
    if latest is not None:
        tensors, meta = load_state(latest)
        for name, weight in _trained(model, learned):
            saved = tensors.get(name)
            if saved is None or saved.shape != weight.shape:
                raise CheckpointError(f"the checkpoint `{latest}` does not fit this model (weight `{name}`).")
            with torch.no_grad():
                weight.copy_(saved)
        load_optimizer_tensors(optimizer, tensors)
        best.tensors = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        best.loss, best.step = float(meta.get("best_loss", math.inf)), int(meta["best_step"])
        best.worse, step = int(meta["worse"]), int(meta["step"])
    run.rewind(stage, step)
    return step


def _trained(model: torch.nn.Module, learned: Learned) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every trained weight under the name that it has in checkpoints."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield f"model/{name}", weight
    for name, weight in learned.named_parameters():
        yield f"learned/{name}", weight
