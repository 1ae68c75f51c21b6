"""Settings that every training has, whatever is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval

from textenv.errors import ConfigError
from textenv.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    UnitFloat,
    refuse_unused,
)

ComputeDtype = Literal["auto", "float32", "bfloat16"]
"""What a copy of the trained weights computes in; ``auto`` is bfloat16 where the hardware is fast at it."""


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Settings that every training has; each kind adds its own and chooses its defaults.

    A *step* is one turn of the trainer's loop: an optimiser step, and for learners that play episodes an iteration,
    which takes several of those.

    Attributes:
        learning_rate: Peak of the learning rate.
        lr_schedule: After the warm-up, ``"linear"`` and ``"cosine"`` decay over the steps that are left, ``"wsd"``
            stays at the peak and decays along a straight line at the end (warm-up, stable, decay: Hu et al. 2024,
            MiniCPM), ``"constant"`` stays.
        warmup_steps: Steps of linear warm-up; below 1 a share of all steps.
        decay_fraction: Share of the steps in which ``"wsd"`` decays.
        lr_floor: Share of the peak that a decay ends at.
        micro_batch_size: Examples per forward and backward pass; gradients add up to a step's. None takes all at once.
        max_grad_norm: Gradient clip.
        log_every: Steps between lines of figures in the run's log; what is evaluated is logged too.
        eval_every: Steps between evaluations on what is held out; 0 evaluates at the end only.
        checkpoint_every: Steps between checkpoints where a run is given; the last step's is written too.
        keep_checkpoints: How many of them stay.
        seed: Of everything random.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: PositiveFloat = 1e-5
    lr_schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_steps: NonNegativeFloat = 0
    decay_fraction: Annotated[float, Interval(gt=0, le=1)] = 0.2
    lr_floor: UnitFloat = 0.0
    micro_batch_size: PositiveInt | None = None
    max_grad_norm: PositiveFloat = 1.0
    log_every: PositiveInt = 1
    eval_every: NonNegativeInt = 20
    checkpoint_every: PositiveInt = 1
    keep_checkpoints: PositiveInt = 2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_schedule != "wsd":
            refuse_unused(self, "unless `lr_schedule` is 'wsd'", "decay_fraction")
        if self.lr_schedule == "constant":
            refuse_unused(self, "where `lr_schedule` is 'constant'", "lr_floor")

    def learning_rate_at(self, step: float, steps: float) -> float:
        """Learning rate of a step (0-based) of so many."""
        warmup = self.warmup_steps * steps if self.warmup_steps < 1 else self.warmup_steps
        if step < warmup:
            return self.learning_rate * min(1.0, (step + 1) / warmup)
        progress = min(1.0, (step - warmup) / max(1.0, steps - warmup))
        if self.lr_schedule == "wsd":
            decay = max(1.0, round(self.decay_fraction * steps))
            progress = max(0.0, (step + 1 - (steps - decay)) / decay)
        left = {
            "constant": 1.0,
            "linear": 1 - progress,
            "wsd": 1 - progress,
            "cosine": 0.5 + 0.5 * math.cos(math.pi * progress),
        }[self.lr_schedule]
        return self.learning_rate * (self.lr_floor + (1 - self.lr_floor) * left)


def dtype_of_bf16(bf16: bool | str | None, fields: Mapping[str, Any]) -> str:
    """The value of ``dtype`` that the former ``bf16``, or its flag, stands for."""
    return {"none": "auto", "null": "auto", "true": "bfloat16", "false": "float32"}.get(str(bf16).lower(), str(bf16))


def size_of_parts(parts: int | str, fields: Mapping[str, Any]) -> int | None:
    """The value of ``micro_batch_size`` that the former ``accumulation``, parts of a batch, stands for.

    Raises:
        ConfigError: If the batch's size does not stand beside it.
    """
    if int(parts) == 1:
        return None
    if "batch_size" not in fields:
        raise ConfigError(f"`accumulation` is now `micro_batch_size`: give it `batch_size` divided by {parts}")
    return max(1, int(fields["batch_size"]) // int(parts))
