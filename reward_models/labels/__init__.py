"""Labels as people give them: the records, conversions between kinds, files, and what several raters agree on."""

from reward_models.labels.conversion import (
    comparisons_from_best,
    comparisons_from_ranking,
    comparisons_from_ratings,
    ranking_from_best,
    ranking_from_ratings,
    ratings_from_texts,
)
from reward_models.labels.files import read_labels, to_dataset, write_labels
from reward_models.labels.records import BestOf, Comparison, Label, Ranking, Rating, StepLabels

__all__ = [
    "BestOf",
    "Comparison",
    "Label",
    "Ranking",
    "Rating",
    "StepLabels",
    "comparisons_from_best",
    "comparisons_from_ranking",
    "comparisons_from_ratings",
    "ranking_from_best",
    "ranking_from_ratings",
    "ratings_from_texts",
    "read_labels",
    "to_dataset",
    "write_labels",
]
