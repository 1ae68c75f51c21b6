"""What was sampled: the record of one answer, the store, estimators on sets of answers, and pictures of them.

``Trajectory`` needs numpy alone; the store loads pyarrow and the pictures matplotlib on first use.
"""

import lazy_loader

from textenv.statistics import (
    Estimate,
    bootstrap_interval,
    grouped_mean,
    grouped_ratio,
    mean_estimate,
    paired_difference,
    ratio_estimate,
)
from textenv.trajectory import Trajectory

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += [
    "Estimate",
    "Trajectory",
    "bootstrap_interval",
    "grouped_mean",
    "grouped_ratio",
    "mean_estimate",
    "paired_difference",
    "ratio_estimate",
]
