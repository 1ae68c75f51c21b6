"""What was sampled: the record of one answer, the store, estimators on sets of answers, and pictures of them.

``Trajectory`` needs numpy alone; the store loads pyarrow and the pictures matplotlib on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from textenv.statistics import (
    Estimate,
    bootstrap_interval,
    grouped_mean,
    grouped_ratio,
    mean_estimate,
    paired_difference,
    ratio_estimate,
)
from textenv.trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    from textenv.trajectories.columns import Columns, Ragged
    from textenv.trajectories.estimators.best_of_n import (
        BestOfNCurve,
        best_of_n_curve,
        best_of_n_kl,
        expected_best,
        pass_at_k,
    )
    from textenv.trajectories.estimators.divergence import (
        entropy_estimate,
        kl_estimate,
        log_ratios,
        per_token,
        rao_blackwell_kl,
    )
    from textenv.trajectories.estimators.diversity import distinct_n, self_bleu
    from textenv.trajectories.estimators.importance import (
        ImportanceWeights,
        effective_sample_size,
        importance_weights,
    )
    from textenv.trajectories.export import preference_pairs, trl_rows, write_jsonl
    from textenv.trajectories.reader import TrajectoryReader
    from textenv.trajectories.store import TrajectoryStore, TrajectoryWriter
    from textenv.trajectories.views.frontier import FrontierPoint, write_frontier
    from textenv.trajectories.views.heatmap import write_heatmap
    from textenv.trajectories.views.summary import Summary, summarize

__all__ = [
    "BestOfNCurve",
    "Columns",
    "Estimate",
    "FrontierPoint",
    "ImportanceWeights",
    "Ragged",
    "Summary",
    "Trajectory",
    "TrajectoryReader",
    "TrajectoryStore",
    "TrajectoryWriter",
    "best_of_n_curve",
    "best_of_n_kl",
    "bootstrap_interval",
    "distinct_n",
    "effective_sample_size",
    "entropy_estimate",
    "expected_best",
    "grouped_mean",
    "grouped_ratio",
    "importance_weights",
    "kl_estimate",
    "log_ratios",
    "mean_estimate",
    "paired_difference",
    "pass_at_k",
    "per_token",
    "preference_pairs",
    "rao_blackwell_kl",
    "ratio_estimate",
    "self_bleu",
    "summarize",
    "trl_rows",
    "write_frontier",
    "write_heatmap",
    "write_jsonl",
]

_HOMES = {
    "columns": ("Columns", "Ragged"),
    "estimators.best_of_n": ("BestOfNCurve", "best_of_n_curve", "best_of_n_kl", "expected_best", "pass_at_k"),
    "estimators.divergence": ("entropy_estimate", "kl_estimate", "log_ratios", "per_token", "rao_blackwell_kl"),
    "estimators.diversity": ("distinct_n", "self_bleu"),
    "estimators.importance": ("ImportanceWeights", "effective_sample_size", "importance_weights"),
    "export": ("preference_pairs", "trl_rows", "write_jsonl"),
    "reader": ("TrajectoryReader",),
    "store": ("TrajectoryStore", "TrajectoryWriter"),
    "views.frontier": ("FrontierPoint", "write_frontier"),
    "views.heatmap": ("write_heatmap",),
    "views.summary": ("Summary", "summarize"),
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
