"""Settings of reward model training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from textenv.errors import ConfigError
from textenv.settings import NonNegativeFloat, NonNegativeInt, OldName, PositiveFloat, PositiveInt
from textenv.training.settings import ComputeDtype, TrainingSettings, dtype_of_bf16

RatingsLoss = Literal["pairs", "regression", "gaussian", "ordinal"]
RankingsLoss = Literal["plackett_luce", "pairs"]
TieModel = Literal["davidson", "rao_kupper", "leave_out"]


@dataclass(frozen=True)
class RewardModelConfig(TrainingSettings):
    """Reward model training: its own settings, beside those of every training; defaults for MiniLM on human ratings.

    Attributes:
        epochs: Passes over the labels; may be a fraction.
        batch_size: Labels per optimiser step.
        learning_rate: Peak of the schedule.
        micro_batch_size: Labels per forward and backward pass; ratings are compared with those of the same pass.
        weight_decay: AdamW's, on matrices only.
        ratings_loss: ``pairs``: Bradley-Terry on all pairs of a batch; ``regression``: squared error; ``gaussian``:
            likelihood with a predicted spread (for models with two outputs); ``ordinal``: cumulative link with learned
            cutpoints, for ratings with a `scale`.
        rankings_loss: ``plackett_luce``, or ``pairs``: Bradley-Terry on all pairs of a list, scaled by one over their
            number (InstructGPT). Best-of-K labels are top-1 rankings.
        ties: What learns from tied comparisons: ``davidson`` or ``rao_kupper`` with a learned tie parameter, or
            nothing (``leave_out``).
        min_gap: Ratings that differ by this or less make no pair.
        soft_ratings: The target of a pair of ratings is the share of raters who would agree (from their `spread`), not
            1.
        margin_scale: Asks pairs of ratings for a margin of this times their difference.
        label_smoothing: Believed share of wrong comparisons, from 0 to below 0.5.
        centering: Weight of the mean squared score, which keeps scores around 0.
        lora_rank: Rank of an adapter on every linear layer, which alone is trained (with the head) and merged
            afterwards; 0 trains all weights.
        freeze_embeddings: Leave the word embeddings as they are.
        dtype: What a copy of the weights computes in; ``auto`` is bfloat16 where the hardware is fast at it.
        eval_every: Steps between measurements of the held-out loss; 0 measures none. With them, the weights of the
            smallest loss are kept.
        patience: Measurements without a smaller loss after which training stops.

    Raises:
        ConfigError: If a value is out of its range.
    """

    old_names: ClassVar = {
        "accumulate": OldName("micro_batch_size", lambda passes, fields: _refused(passes)),
        "warmup_fraction": OldName("warmup_steps"),
        "bf16": OldName("dtype", dtype_of_bf16),
    }

    epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-4
    warmup_steps: NonNegativeFloat = 0.05
    weight_decay: NonNegativeFloat = 0.01
    ratings_loss: RatingsLoss = "pairs"
    rankings_loss: RankingsLoss = "plackett_luce"
    ties: TieModel = "davidson"
    min_gap: NonNegativeFloat = 0.3
    soft_ratings: bool = False
    margin_scale: NonNegativeFloat = 0.0
    label_smoothing: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0
    centering: NonNegativeFloat = 0.0
    lora_rank: NonNegativeInt = 0
    freeze_embeddings: bool = True
    dtype: ComputeDtype = "auto"
    patience: PositiveInt = 3
    log_every: PositiveInt = 5
    eval_every: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 40


def _refused(passes: int | str) -> None:
    """One pass is what there is without the setting; more of them were of ``batch_size`` labels each.

    Raises:
        ConfigError: If there were more.
    """
    if int(passes) != 1:
        raise ConfigError(
            f"`accumulate` is gone: `batch_size` counts all labels of a step now, and `micro_batch_size` those of a "
            f"pass; multiply `batch_size` by {passes} and give the old one as `micro_batch_size`"
        )
