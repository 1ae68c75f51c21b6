"""Settings of reward model training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textenv.errors import ConfigError

RatingsLoss = Literal["pairs", "regression", "gaussian", "ordinal"]
RankingsLoss = Literal["plackett_luce", "pairs"]
TieModel = Literal["davidson", "rao_kupper", "leave_out"]


@dataclass(frozen=True)
class RewardModelConfig:
    """Reward model training; the defaults are for MiniLM on the human ratings.

    Attributes:
        epochs: Passes over the labels; may be a fraction.
        batch_size: Labels per forward and backward pass.
        accumulate: Passes per optimiser step; gradients are averaged.
        learning_rate: Peak, reached after the warm-up; decays linearly to 0.
        warmup_fraction: Share of the steps with a rising learning rate.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: Gradient clip.
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
        bf16: Compute with a bfloat16 copy of the weights; None means where the hardware is fast at it.
        eval_every: Steps between measurements of the held-out loss; 0 measures none. With them, the weights of the
            smallest loss are kept.
        patience: Measurements without a smaller loss after which training stops.
        checkpoint_every: Steps between checkpoints of a run.
        seed: Order of the labels.
    """

    epochs: float = 1.0
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 2e-4
    warmup_fraction: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ratings_loss: RatingsLoss = "pairs"
    rankings_loss: RankingsLoss = "plackett_luce"
    ties: TieModel = "davidson"
    min_gap: float = 0.3
    soft_ratings: bool = False
    margin_scale: float = 0.0
    label_smoothing: float = 0.0
    centering: float = 0.0
    lora_rank: int = 0
    freeze_embeddings: bool = True
    bf16: bool | None = None
    eval_every: int = 0
    patience: int = 3
    checkpoint_every: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "accumulate", "learning_rate", "max_grad_norm", "patience")
        for name in (*positive, "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"`warmup_fraction` must be in [0, 1), got {self.warmup_fraction}.")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"`label_smoothing` must be in [0, 0.5), got {self.label_smoothing}.")
        for name in ("min_gap", "weight_decay", "margin_scale", "centering", "lora_rank", "eval_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must be ≥ 0, got {getattr(self, name)}.")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of a step (0-based) of so many: linear warm-up, then linear decay that ends at 0."""
        warmup = self.warmup_fraction * steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        return self.learning_rate * min(rise, (steps - step) / max(1.0, steps - warmup))
