"""What every measured number is: a value with its interval, and the formulas that need no resampling."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError

CONFIDENCE = 0.95
"""Coverage of an interval, where nothing else is asked for."""


class Interval(NamedTuple):
    """A measured number and where it may lie; ``f"{interval:.2f}"`` writes ``0.81 [0.79, 0.83]``.

    Attributes:
        value: The estimate; NaN where there is nothing to measure.
        low: Lower end of the interval; NaN where it cannot be known.
        high: Upper end.
        n: What it rests on: pairs, items, prompts or values.
        clusters: Independent groups among them.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    clusters: int = 0

    def __format__(self, spec: str) -> str:
        if not math.isfinite(self.low + self.high):
            return format(self.value, spec)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def to_json(self) -> dict[str, float | int | None]:
        """Value, ends and n as JSON can hold them; NaN becomes null."""
        value, low, high = (finite_or_none(number) for number in self[:3])
        return {"value": value, "low": low, "high": high, "n": self.n}

    @classmethod
    def of_draws(
        cls,
        value: float,
        draws: NDArray[np.float64],
        *,
        n: int,
        clusters: int,
        bounds: tuple[float, float] | None = None,
        of_shares: bool = False,
        confidence: float = CONFIDENCE,
    ) -> Interval:
        """The interval of an estimate whose clusters were resampled.

        A share (bounds 0 and 1) gets that of a share with as many independent values as the spread of its draws is
        worth: resamples of a sample in which all say yes all say yes too. Everything else gets :func:`skewed_interval`
        with the standard error and the skewness of the draws; none where no draw differs, since a sample without
        variation does not say how far the next one lies.

        Args:
            value: The estimate.
            draws: The same in every resample, shape ``(R,)``; what is not finite is left out.
            n: What it rests on.
            clusters: How many independent ones; with one only a share has an interval.
            bounds: Where the figure can lie; the interval is cut to it.
            of_shares: Whether it is the difference of two shares: then half a cluster on either side is added, since
                few clusters differ at all, and what is skewed by chance is not relied upon.
            confidence: Coverage.

        Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4),
        section 4.3 (t with the bootstrap's standard error); the added halves: Agresti and Min 2005, Statistics in
        Medicine 24, 729-740; for the rest see :func:`skewed_interval`.
        """
        check_confidence(confidence)
        usable = draws[np.isfinite(draws)]
        is_share = bounds == (0, 1)
        if not len(usable) or clusters < (1 if is_share else 2) or not math.isfinite(value):
            return cls(float(value), n=int(n), clusters=int(clusters))
        # Resamples of n values vary by (n − 1)/n of what samples do.
        spread = float(usable.std())
        error = spread * math.sqrt(clusters / max(clusters - 1, 1))
        if is_share:
            low, high = share_interval(value, error, math.inf, clusters, confidence)
        else:
            skewness = float(((usable - usable.mean()) ** 3).mean()) / spread**3 if spread > 0 else 0.0
            if of_shares:
                error = math.hypot(error, 1 / (clusters + 2))
            low, high = skewed_interval(value, error, skewness, clusters - 1, confidence)
            if of_shares:
                reach = student_quantile(confidence, clusters - 1) * error
                low, high = min(low, value - reach), max(high, value + reach)
        if bounds is not None:
            low, high = np.clip([low, high], *bounds)
        return cls(float(value), float(low), float(high), int(n), int(clusters))


def finite_or_none(value: float) -> float | None:
    """The number, or None where it is not finite: JSON knows no NaN."""
    return float(value) if math.isfinite(value) else None


def student_quantile(confidence: float, freedom: float) -> float:
    """How many standard errors Student's interval reaches to either side.

    Args:
        confidence: Coverage.
        freedom: Degrees of freedom, above 0.
    """
    from scipy.special import stdtrit  # a third of a second that `import textenv` must not pay

    return float(stdtrit(freedom, (1 + confidence) / 2))


def skewed_interval(
    value: float, error: float, skewness: float, freedom: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Student's interval with the skewness of the estimate taken off: longer towards the side of the long tail.

    Args:
        value: The estimate.
        error: Its standard error; 0 or NaN gives NaN: values that do not vary do not say how far off they are.
        skewness: Of the estimate: that of n values over √n; 0 gives Student's interval.
        freedom: Degrees of freedom, above 0.
        confidence: Coverage.

    Source: Hall 1992, "On the Removal of Skewness by Transformation", JRSS B 54, 221-228: the cubic transformation g₂,
    which is monotone, so that its inverse is the interval.
    """
    if not error > 1e-12 * max(1.0, abs(value)):
        return math.nan, math.nan
    reach = student_quantile(confidence, freedom)
    if abs(skewness) < 1e-6:
        return value - reach * error, value + reach * error
    # T + k T²/3 + k² T³/27 + k/6 of Student's T, inverted at ± the quantile.
    ends = (3 / skewness * (np.cbrt(1 + skewness * (end - skewness / 6)) - 1) for end in (reach, -reach))
    low, high = (value - float(end) * error for end in ends)
    return low, high


def wilson_interval(value: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
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


def mid_p_interval(value: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share by the exact binomial test, whose own outcome counts one half: mid-P.

    It holds what it says near 0 and 1 and for a handful of values too, where Wilson's falls short.

    Args:
        value: The share, 0…1.
        count: Observations; an effective number need not be whole.
        confidence: Coverage.

    Raises:
        ConfigError: If an argument is out of its range.
    Source: Berry and Armitage 1995, "Mid-P Confidence Intervals: A Brief Review", The Statistician 44, 417-423.
    """
    from scipy.optimize import brentq
    from scipy.special import betainc

    if not 0 <= value <= 1 or not count > 0 or not 0 < confidence < 1:
        raise ConfigError(f"need 0 ≤ value ≤ 1, count > 0, 0 < confidence < 1, got {value}, {count}, {confidence}")
    yes, no = value * count, (1 - value) * count

    def excess(share: float, tail: float) -> float:
        """P(fewer) + ½ P(as many) − tail; the binomial distribution by its beta integral, for counts that break."""
        fewer = betainc(no + 1, yes, 1 - share) if yes > 1e-12 else 0.0
        at_most = betainc(no, yes + 1, 1 - share) if no > 1e-12 else 1.0
        return float(fewer + at_most) / 2 - tail

    tail = (1 - confidence) / 2

    def root(tail: float) -> float:
        return float(brentq(excess, 0.0, 1.0, args=(tail,), xtol=1e-12))  # pyright: ignore[reportArgumentType]

    return root(1 - tail) if yes > 1e-12 else 0.0, root(tail) if no > 1e-12 else 1.0


def share_interval(value: float, error: float, n: float, clusters: int, confidence: float) -> tuple[float, float]:
    """The mid-P interval of a share for the number of independent values that it is worth.

    That number is ``v (1 − v) / error²``, less where few clusters leave the error itself uncertain; between one and
    the number of values, and the number of clusters where nothing varies, so that nothing is known about it. Ties (½)
    vary less than the formula's wins and losses: with many of them the interval is wider than it need be.

    Args:
        value: The share, 0…1 but for rounding.
        error: Its standard error over clusters; 0 or NaN where nothing varies.
        n: Values; infinite where strata or pairs may be worth more.
        clusters: Independent groups among them.
        confidence: Coverage.

    Source: Kish 1965 (effective sample size) and Korn and Graubard 1998, Survey Methodology 24(2) (its degrees of
    freedom, in an exact interval); for the interval see :func:`mid_p_interval`.
    """
    value, effective = min(max(float(value), 0.0), 1.0), float(clusters)
    if error > 1e-9 and clusters > 1:
        effective = value * (1 - value) / error**2
        effective *= (NormalDist().inv_cdf((1 + confidence) / 2) / student_quantile(confidence, clusters - 1)) ** 2
    return mid_p_interval(value, max(1.0, min(effective, n)), confidence)


def check_confidence(confidence: float) -> None:
    """Refuse a coverage that is none.

    Raises:
        ConfigError: If it lies outside 0 … 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"`confidence` must lie between 0 and 1, got {confidence}")
