"""What was sampled: the record of one answer."""

from textenv.trajectories.trajectory import Trajectory

__all__ = ["Trajectory"]
