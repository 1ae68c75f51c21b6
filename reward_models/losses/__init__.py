"""Losses for reward models: pure functions of score tensors, by the kind of label that they learn from."""

from reward_models.losses.pairwise import (
    bradley_terry,
    centering,
    davidson,
    davidson_logprobs,
    rao_kupper,
    rated_pairs,
    thurstone,
)
from reward_models.losses.process import step_bce
from reward_models.losses.rankings import MAX_TIED, PADDING, UNRANKED, best_of, plackett_luce, ranked_pairs
from reward_models.losses.ratings import (
    gaussian_nll,
    increasing,
    ordinal,
    ordinal_logprobs,
    squared_error,
)
from reward_models.losses.reduction import same_shape, weighted_mean

__all__ = [
    "MAX_TIED",
    "PADDING",
    "UNRANKED",
    "best_of",
    "bradley_terry",
    "centering",
    "davidson",
    "davidson_logprobs",
    "gaussian_nll",
    "increasing",
    "ordinal",
    "ordinal_logprobs",
    "plackett_luce",
    "ranked_pairs",
    "rao_kupper",
    "rated_pairs",
    "same_shape",
    "squared_error",
    "step_bce",
    "thurstone",
    "weighted_mean",
]
