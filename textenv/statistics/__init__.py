"""The one statistics room: a value with its interval, estimates over clusters, and the bootstrap.

Three ways to an interval, each simulated in the tests for few and many clusters: Student's without the skewness for
means and ratios, the exact test's for shares, resampled clusters for everything else. Nothing here needs torch.
"""

from textenv.statistics.bootstrap import ClusterBootstrap, Resampled, Statistic, bootstrap_interval, two_sided_p
from textenv.statistics.estimates import (
    Estimate,
    cluster_numbers,
    clustered_share,
    group_means,
    grouped_mean,
    grouped_ratio,
    mean_estimate,
    mean_interval,
    paired_difference,
    ratio_estimate,
    two_way_error,
)
from textenv.statistics.intervals import (
    CONFIDENCE,
    Interval,
    finite_or_none,
    mid_p_interval,
    share_interval,
    skewed_interval,
    student_quantile,
    wilson_interval,
)

__all__ = [
    "CONFIDENCE",
    "ClusterBootstrap",
    "Estimate",
    "Interval",
    "Resampled",
    "Statistic",
    "bootstrap_interval",
    "cluster_numbers",
    "clustered_share",
    "finite_or_none",
    "group_means",
    "grouped_mean",
    "grouped_ratio",
    "mean_estimate",
    "mean_interval",
    "mid_p_interval",
    "paired_difference",
    "ratio_estimate",
    "share_interval",
    "skewed_interval",
    "student_quantile",
    "two_sided_p",
    "two_way_error",
    "wilson_interval",
]
