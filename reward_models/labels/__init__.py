"""Labels as people give them: the records, conversions between kinds, files, and what several raters agree on."""

from reward_models.labels.column_map import LabelColumns
from reward_models.labels.conversion import (
    comparisons_from_best,
    comparisons_from_ranking,
    comparisons_from_ratings,
    ranking_from_best,
    ranking_from_ratings,
    ratings_from_texts,
)
from reward_models.labels.feedback import labels_from_store, labels_into_store
from reward_models.labels.files import LabelFile, read_label_file, read_labels, to_dataset, write_labels
from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from reward_models.labels.raters import agreement, dawid_skene, krippendorff_alpha, rater_effects
from reward_models.labels.splits import LabelSplits, SplitBy, near_duplicates, split_labels, split_leaks

__all__ = [
    "BestOf",
    "Comparison",
    "Label",
    "LabelColumns",
    "LabelFile",
    "LabelSplits",
    "Ranking",
    "Rating",
    "SplitBy",
    "StepLabels",
    "agreement",
    "comparisons_from_best",
    "comparisons_from_ranking",
    "comparisons_from_ratings",
    "dawid_skene",
    "krippendorff_alpha",
    "labels_from_store",
    "labels_into_store",
    "near_duplicates",
    "ranking_from_best",
    "ranking_from_ratings",
    "rater_effects",
    "ratings_from_texts",
    "read_label_file",
    "read_labels",
    "split_labels",
    "split_leaks",
    "to_dataset",
    "write_labels",
]
