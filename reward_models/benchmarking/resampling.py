"""The former place of what stands in :mod:`textenv.statistics` now; goes with the next version."""

from textenv.statistics import ClusterBootstrap, two_sided_p

__all__ = ["ClusterBootstrap", "two_sided_p"]
