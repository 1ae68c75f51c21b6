"""Settings of cross-entropy training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from textenv.settings import NonNegativeFloat, NonNegativeInt, OldName, PositiveFloat, PositiveInt, UnitFloat
from textenv.training.settings import ComputeDtype, TrainingSettings, dtype_of_bf16, size_of_parts


@dataclass(frozen=True)
class LMConfig(TrainingSettings):
    """Cross-entropy training: its own settings, beside those of every training.

    Attributes:
        steps: Optimisation steps.
        batch_size: Sequences (or packed blocks) per step, of all processes together.
        learning_rate: Peak of the schedule.
        lr_floor: 10% of the peak, as in Hoffmann et al. 2022 (Chinchilla).
        weight_decay: AdamW's, on matrices only.
        loss_reduction: ``token``: the mean over all counted tokens of a step; ``example``: the mean over examples of
            their own means, so that long answers weigh no more than short ones.
        neftune_alpha: Uniform noise on the embeddings of training inputs, scaled by α/√(length · width) (Jain et al.
            2023, arXiv:2310.05914); 0 adds none.
        dtype: What a copy of the weights computes in (the optimiser's stay float32); ``auto`` is bfloat16 where the
            hardware is fast at it.

    Raises:
        ConfigError: If a number is out of its range.
    """

    old_names: ClassVar = {
        "schedule": OldName("lr_schedule"),
        "accumulation": OldName("micro_batch_size", size_of_parts),
        "bf16": OldName("dtype", dtype_of_bf16),
    }

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    lr_schedule: Literal["linear", "cosine", "wsd", "constant"] = "cosine"
    lr_floor: UnitFloat = 0.1
    warmup_steps: NonNegativeFloat = 50
    weight_decay: NonNegativeFloat = 0.1
    loss_reduction: Literal["token", "example"] = "token"
    neftune_alpha: NonNegativeFloat = 0.0
    dtype: ComputeDtype = "auto"
    log_every: PositiveInt = 10
    eval_every: NonNegativeInt = 200
    checkpoint_every: PositiveInt = 100
