"""Shares with intervals that hold where observations come in clusters and where all or none say yes."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import ConfigError
from textenv.trajectories.estimators.intervals import grouped_ratio


class Share(NamedTuple):
    """A mean of values between 0 and 1, such as a win rate.

    Attributes:
        value: The mean; NaN without a value.
        low: Lower end of the interval.
        high: Upper end.
        number: Values.
        clusters: Independent groups among them.
    """

    value: float
    low: float
    high: float
    number: int
    clusters: int

    @classmethod
    def none(cls) -> Share:
        """What is known without any value."""
        return cls(math.nan, math.nan, math.nan, 0, 0)


def wilson_interval(value: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        value: The share, 0…1.
        count: Observations; an effective number need not be whole.
        confidence: Coverage.

    Raises:
        ConfigError: If an argument is out of its range.
    Source: Wilson 1927, JASA 22, 209-212.
    """
    if not 0 <= value <= 1 or not count > 0 or not 0 < confidence < 1:
        raise ConfigError(f"need 0 ≤ value ≤ 1, count > 0, 0 < confidence < 1, got {value}, {count}, {confidence}")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (value + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * (value * (1 - value) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def clustered_share(values: ArrayLike, clusters: ArrayLike | None = None, confidence: float = 0.95) -> Share:
    """Mean of values in 0…1 with a Wilson interval for the number of independent values that they are worth.

    The effective number is ``v (1 − v) / SE²``, with the linearised standard error of the ratio over clusters; between
    one and the number of values, and the number of clusters where all values agree, so that nothing is known about it.
    A bootstrap would give an interval of width 0 there, and other figures at every look. Ties (½) vary less than the
    formula's wins and losses: with many of them the interval is wider than it need be.

    Args:
        values: Shape ``(n,)``, each in 0…1.
        clusters: What belongs together, e.g. the prompt, shape ``(n,)``; None: every value stands alone.
        confidence: Coverage.

    Source: Kish 1965 (effective sample size), in Wilson's interval as recommended by Franco, Little, Louis and Slud
    2019, "Comparative Study of Confidence Intervals for Proportions in Complex Sample Surveys", J. Survey Stat.
    Methodol. 7.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return Share.none()
    value, count = float(np.clip(x.mean(), 0, 1)), len(x)
    if clusters is None:
        return Share(value, *wilson_interval(value, count, confidence), count, count)
    groups = len(np.unique(np.asarray(clusters)))
    effective = float(groups)
    if groups > 1:
        error = grouped_ratio(x, np.ones(count), clusters).standard_error
        effective = min(float(count), value * (1 - value) / error**2) if error > 0 else effective
    return Share(value, *wilson_interval(value, max(1.0, effective), confidence), count, groups)
