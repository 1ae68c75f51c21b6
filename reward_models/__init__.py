"""Reward models: what they are, how they learn from human labels, and how often they agree with people."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.base import ChatTemplate, RewardModel, TextTemplate
    from reward_models.benchmarking import BenchmarkReport, benchmark
    from reward_models.card import write_card
    from reward_models.degenerate import degenerate_ratings
    from reward_models.ensembles import Clipped, Ensemble, EnsembleScores, WeightedSum, ZScored
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
    from reward_models.loading import load_reward_model, save_reward_model
    from reward_models.metrics import human_rater_accuracy, pair_accuracy
    from reward_models.normalization import Normalization
    from reward_models.sequence import SequenceRewardModel
    from reward_models.simulation import LikertScale, Rater, SimulatedRaters, WordGold
    from reward_models.tfidf import TfidfRidge
    from reward_models.training import RewardModelConfig, evaluate, train
    from reward_models.uncertain import UncertainRewardModel
    from reward_models.weight_averaging import average_weights

_HOMES = {
    "BenchmarkReport": "benchmarking",
    "BestOf": "labels",
    "ChatTemplate": "base",
    "Clipped": "ensembles",
    "Comparison": "labels",
    "Ensemble": "ensembles",
    "EnsembleScores": "ensembles",
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
    "UncertainRewardModel": "uncertain",
    "WeightedSum": "ensembles",
    "WordGold": "simulation",
    "ZScored": "ensembles",
    "average_weights": "weight_averaging",
    "benchmark": "benchmarking",
    "comparisons_from_ratings": "labels",
    "degenerate_ratings": "degenerate",
    "evaluate": "training",
    "human_rater_accuracy": "metrics",
    "load_reward_model": "loading",
    "pair_accuracy": "metrics",
    "ratings_from_texts": "labels",
    "read_labels": "labels",
    "save_reward_model": "loading",
    "to_dataset": "labels",
    "train": "training",
    "write_card": "card",
    "write_labels": "labels",
}

__all__ = [
    "BenchmarkReport",
    "BestOf",
    "ChatTemplate",
    "Clipped",
    "Comparison",
    "Ensemble",
    "EnsembleScores",
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
    "UncertainRewardModel",
    "WeightedSum",
    "WordGold",
    "ZScored",
    "average_weights",
    "benchmark",
    "comparisons_from_ratings",
    "degenerate_ratings",
    "evaluate",
    "human_rater_accuracy",
    "load_reward_model",
    "pair_accuracy",
    "ratings_from_texts",
    "read_labels",
    "save_reward_model",
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
