"""What was sampled: the record of one answer, and figures about sets of them."""

from textenv.trajectories.statistics import distinct_n, mean_interval
from textenv.trajectories.trajectory import Trajectory

__all__ = ["Trajectory", "distinct_n", "mean_interval"]
