"""Settings of cross-entropy training, and its learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from textenv.errors import ConfigError

FLOOR = 0.1
"""What remains of the peak learning rate at the end, as in Hoffmann et al. 2022 (Chinchilla)."""


@dataclass(frozen=True)
class LMConfig:
    """Cross-entropy training.

    Attributes:
        steps: Optimisation steps.
        batch_size: Sequences (or packed blocks) per step, of all processes together.
        learning_rate: Peak of the schedule.
        warmup_steps: Steps of linear warm-up.
        schedule: ``cosine`` decays to 10% from the warm-up on; ``wsd`` stays at the peak and decays along a straight
            line at the end (warm-up, stable, decay: Hu et al. 2024, MiniCPM); ``constant`` stays.
        decay_fraction: Share of the steps in which ``wsd`` decays.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: Gradient clip.
        accumulation: Parts that a step's batch is computed in, one after the other; the gradient is that of the whole.
        loss_reduction: ``token``: the mean over all counted tokens of a step; ``example``: the mean over examples of
            their own means, so that long answers weigh no more than short ones.
        neftune_alpha: Uniform noise on the embeddings of training inputs, scaled by α/√(length · width) (Jain et al.
            2023, arXiv:2310.05914); 0 adds none.
        bf16: Compute with a bfloat16 copy of the weights (the optimiser's stay float32); None means where the hardware
            is fast at it.
        eval_every: Steps between evaluations on held-out examples; 0 evaluates at the end only.
        checkpoint_every: Steps between checkpoints.
        seed: Order of the examples.

    Raises:
        ConfigError: If a number is out of its range.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay_fraction: float = 0.2
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    accumulation: int = 1
    loss_reduction: Literal["token", "example"] = "token"
    neftune_alpha: float = 0.0
    bf16: bool | None = None
    eval_every: int = 200
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "max_grad_norm", "checkpoint_every", "accumulation"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ConfigError(f"`accumulation` ({self.accumulation}) must divide `batch_size` ({self.batch_size})")
        if not 0 < self.decay_fraction <= 1:
            raise ConfigError(f"`decay_fraction` must lie in (0, 1], got {self.decay_fraction}")
        if self.neftune_alpha < 0:
            raise ConfigError(f"`neftune_alpha` must be ≥ 0, got {self.neftune_alpha}")
        for name, allowed in (("schedule", ("cosine", "wsd", "constant")), ("loss_reduction", ("token", "example"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step (0-based): linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "wsd":
            decay_steps = max(1, round(self.decay_fraction * self.steps))
            share = max(0.0, (step + 1 - (self.steps - decay_steps)) / decay_steps)
            return self.learning_rate * (1 - (1 - FLOOR) * share)
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))
