"""Wrappers for single environments; ``textenv.wrappers.vector`` has the same ones for vector environments.

They compose in any order. Each needs a textenv environment somewhere inside.
"""

from textenv.wrappers.base import NextTokenLogprobs
from textenv.wrappers.kl import AdaptiveKLController, FixedKLController
from textenv.wrappers.single import (
    AllowTokens,
    ClipReward,
    DenyTokens,
    KLPenalty,
    LearnedMask,
    LengthPenalty,
    MissingEosPenalty,
    RecordTrajectories,
    ReferenceLogProb,
    ScaleReward,
    TopK,
    TopP,
    WhitenReward,
)

__all__ = [
    "AdaptiveKLController",
    "AllowTokens",
    "ClipReward",
    "DenyTokens",
    "FixedKLController",
    "KLPenalty",
    "LearnedMask",
    "LengthPenalty",
    "MissingEosPenalty",
    "NextTokenLogprobs",
    "RecordTrajectories",
    "ReferenceLogProb",
    "ScaleReward",
    "TopK",
    "TopP",
    "WhitenReward",
]
