import textenv.statistics as _statistics
import textenv.trajectory as _trajectory

from .columns import Columns as Columns, Ragged as Ragged
from .estimators.best_of_n import (
    BestOfNCurve as BestOfNCurve,
    best_of_n_curve as best_of_n_curve,
    best_of_n_kl as best_of_n_kl,
    expected_best as expected_best,
    pass_at_k as pass_at_k,
)
from .estimators.divergence import (
    entropy_estimate as entropy_estimate,
    kl_estimate as kl_estimate,
    log_ratios as log_ratios,
    per_token as per_token,
    rao_blackwell_kl as rao_blackwell_kl,
)
from .estimators.diversity import distinct_n as distinct_n, self_bleu as self_bleu
from .estimators.importance import (
    ImportanceWeights as ImportanceWeights,
    effective_sample_size as effective_sample_size,
    importance_weights as importance_weights,
)
from .export import preference_pairs as preference_pairs, trl_rows as trl_rows, write_jsonl as write_jsonl
from .reader import TrajectoryReader as TrajectoryReader
from .store import TrajectoryStore as TrajectoryStore, TrajectoryWriter as TrajectoryWriter
from .views.frontier import FrontierPoint as FrontierPoint, write_frontier as write_frontier
from .views.heatmap import write_heatmap as write_heatmap
from .views.summary import Summary as Summary, summarize as summarize

Trajectory = _trajectory.Trajectory
Estimate = _statistics.Estimate
bootstrap_interval = _statistics.bootstrap_interval
grouped_mean = _statistics.grouped_mean
grouped_ratio = _statistics.grouped_ratio
mean_estimate = _statistics.mean_estimate
paired_difference = _statistics.paired_difference
ratio_estimate = _statistics.ratio_estimate
