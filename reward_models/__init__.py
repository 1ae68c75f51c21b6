"""Reward models: what they are, how they learn from human labels, and how often they agree with people."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.base import RewardModel, TextTemplate
    from reward_models.benchmarking import BenchmarkReport, benchmark
    from reward_models.card import write_card
    from reward_models.degenerate import degenerate_ratings
    from reward_models.labels import (
        BestOf,
        Comparison,
        Ranking,
        Rating,
        StepLabels,
        comparisons_from_ratings,
        ratings_from_texts,
        read_labels,
        to_dataset,
        write_labels,
    )
    from reward_models.lexicon import Lexicon
    from reward_models.metrics import Accuracy, human_rater_accuracy, pair_accuracy
    from reward_models.normalization import Normalization
    from reward_models.sequence import SequenceRewardModel
    from reward_models.simulation import LikertScale, Rater, SimulatedRaters, WordGold
    from reward_models.tfidf import TfidfRidge
    from reward_models.training import RewardModelConfig, evaluate, train

_HOMES = {
    "BenchmarkReport": "benchmarking",
    "benchmark": "benchmarking",
    "Accuracy": "metrics",
    "BestOf": "labels",
    "Comparison": "labels",
    "Lexicon": "lexicon",
    "LikertScale": "simulation",
    "Normalization": "normalization",
    "Ranking": "labels",
    "Rater": "simulation",
    "Rating": "labels",
    "RewardModel": "base",
    "RewardModelConfig": "training",
    "SequenceRewardModel": "sequence",
    "SimulatedRaters": "simulation",
    "StepLabels": "labels",
    "TextTemplate": "base",
    "TfidfRidge": "tfidf",
    "WordGold": "simulation",
    "comparisons_from_ratings": "labels",
    "degenerate_ratings": "degenerate",
    "evaluate": "training",
    "human_rater_accuracy": "metrics",
    "pair_accuracy": "metrics",
    "ratings_from_texts": "labels",
    "read_labels": "labels",
    "to_dataset": "labels",
    "train": "training",
    "write_card": "card",
    "write_labels": "labels",
}

__all__ = [
    "Accuracy",
    "BenchmarkReport",
    "BestOf",
    "Comparison",
    "Lexicon",
    "LikertScale",
    "Normalization",
    "Ranking",
    "Rater",
    "Rating",
    "RewardModel",
    "RewardModelConfig",
    "SequenceRewardModel",
    "SimulatedRaters",
    "StepLabels",
    "TextTemplate",
    "TfidfRidge",
    "WordGold",
    "benchmark",
    "comparisons_from_ratings",
    "degenerate_ratings",
    "evaluate",
    "human_rater_accuracy",
    "pair_accuracy",
    "ratings_from_texts",
    "read_labels",
    "to_dataset",
    "train",
    "write_card",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
