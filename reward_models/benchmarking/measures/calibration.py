"""Whether a difference of scores means what a Bradley-Terry model says: ``P(a preferred) = σ((s_a − s_b) / T)``.

The temperature T is fitted on one half of the prompts, and every figure is about the other half, before and after.
Labels are soft where several raters were asked: the share that prefers the one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from reward_models.benchmarking.data import Pairs, SuiteData
from textenv.statistics import CONFIDENCE, ClusterBootstrap, Interval, Resampled, student_quantile

BINS = 10
_MAX_LOG_T = 12.0  # temperatures from 6e-6 to 160,000 times the scores' own spread


class ReliabilityBin(NamedTuple):
    """One point of a reliability plot.

    Attributes:
        confidence: Mean predicted probability of the preferred side, in [0.5, 1].
        agreement: Share of raters on that side.
        pairs: Number of pairs.
    """

    confidence: float
    agreement: Interval
    pairs: int


class CalibrationFigures(NamedTuple):
    """Calibration at one temperature.

    Attributes:
        ece: Expected calibration error over ten bins of equal width.
        ece_mass: Over ten bins of equally many pairs.
        brier: Mean squared error of the probability against the share of raters.
        nll: Nats per pair; log 2 = 0.693 is chance.
        bins: Reliability plot over the bins of equal mass.
    """

    ece: Interval
    ece_mass: Interval
    brier: Interval
    nll: Interval
    bins: tuple[ReliabilityBin, ...]


class CalibrationResult(NamedTuple):
    """Calibration before and after a temperature is fitted.

    Attributes:
        temperature: Fitted on the first half of the prompts.
        raw: At temperature 1, on the second half.
        fitted: At the fitted temperature, on the second half.
    """

    temperature: float
    raw: CalibrationFigures
    fitted: CalibrationFigures


def calibration(
    scores: NDArray[np.float64], suite: SuiteData, bootstrap: ClusterBootstrap, rng: np.random.Generator
) -> CalibrationResult | None:
    """Calibration on held-out prompts; None where a half has no pair with both scores.

    Args:
        scores: One per item, NaN where missing, shape ``(n,)``.
        suite: Its pairs with the share of raters that prefers the better one.
        bootstrap: Over the suite's clusters.
        rng: Splits the clusters in halves.
    """
    pairs = suite.pairs
    difference = scores[pairs.better] - scores[pairs.worse]
    second_half = rng.permutation(bootstrap.count) % 2 == 1
    sides = second_half[bootstrap.clusters[pairs.better]], second_half[bootstrap.clusters[pairs.worse]]
    usable = np.isfinite(difference)
    fit, held_out = usable & ~sides[0] & ~sides[1], np.flatnonzero(usable & sides[0] & sides[1])
    if not fit.any() or not len(held_out):
        return None
    temperature = fit_temperature(difference[fit], pairs.share[fit])
    raw = _figures(difference[held_out], pairs, held_out, bootstrap)
    return CalibrationResult(temperature, raw, _figures(difference[held_out] / temperature, pairs, held_out, bootstrap))


def fit_temperature(difference: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    """The temperature with the least negative log-likelihood.

    Args:
        difference: Score differences, shape ``(P,)``.
        share: Share of raters who agree with a positive difference, shape ``(P,)``.

    Returns:
        1 if all differences are 0: nothing depends on it then.
    """
    spread = float(np.abs(difference).mean())
    if spread == 0:
        return 1.0

    def loss(log_t: float) -> float:
        return float(negative_log_likelihood(difference / (spread * np.exp(log_t)), share).mean())

    found = minimize_scalar(loss, bounds=(-_MAX_LOG_T, _MAX_LOG_T), method="bounded", options={"xatol": 1e-4})
    return float(spread * np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def negative_log_likelihood(logits: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """``−y log σ(z) − (1 − y) log σ(−z)`` in nats, for soft labels y; shape of the arguments."""
    return np.logaddexp(0.0, -logits) + (1 - share) * logits


def calibration_error(confidence: NDArray[np.float64], agreement: NDArray[np.float64], edges: NDArray) -> float:
    """``Σ_b (n_b / n) |mean agreement − mean confidence|`` over the bins between `edges`.

    Args:
        confidence: Probabilities, shape ``(P,)``.
        agreement: What came out, 0 to 1, shape ``(P,)``.
        edges: Ends of the bins; values at an inner edge belong to the upper bin.
    """
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    gaps = np.bincount(place, agreement - confidence, len(edges) - 1)
    return float(np.abs(gaps).sum() / len(confidence))


def _figures(
    logits: NDArray[np.float64], pairs: Pairs, chosen: NDArray[np.int64], bootstrap: ClusterBootstrap
) -> CalibrationFigures:
    share = pairs.share[chosen]
    with np.errstate(over="ignore"):
        confidence = 1 / (1 + np.exp(-np.abs(logits)))
    agreement = np.where(logits > 0, share, np.where(logits < 0, 1 - share, 0.5))
    count = len(chosen)
    first, second = pairs.better[chosen], pairs.worse[chosen]

    clusters = bootstrap.clusters_of_pairs(first, second)

    def mean(values: NDArray[np.float64], bounds: tuple[float, float]) -> Interval:
        return bootstrap.pair_mean(first, second, values).interval(bounds)

    def error(edges: NDArray[np.float64]) -> tuple[Interval, tuple[ReliabilityBin, ...]]:
        place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
        inside = np.equal(place[:, None], np.arange(BINS)).astype(np.float64)
        totals, draws = bootstrap.pair_sums(
            first, second, np.hstack([inside * (agreement - confidence)[:, None], inside])
        )
        bins = []
        for index in range(BINS):
            size = int(totals[BINS + index])
            if size:
                own = float(confidence[place == index].mean())
                with np.errstate(invalid="ignore", divide="ignore"):
                    shift = draws[:, index] / np.where(draws[:, BINS + index] > 0, draws[:, BINS + index], np.nan)
                inside_bin = np.flatnonzero(place == index)
                observed = Resampled(
                    own + float(totals[index]) / size,
                    own + shift,
                    size,
                    bootstrap.clusters_of_pairs(first[inside_bin], second[inside_bin]),
                )
                bins.append(ReliabilityBin(own, observed.interval((0, 1)), size))
        sizes = np.maximum(draws[:, BINS:].sum(1), 1)
        gaps, shares = totals[:BINS] / count, totals[BINS:] / count
        return _error_interval(gaps, shares, draws[:, :BINS] / sizes[:, None], count, clusters), tuple(bins)

    width, _ = error(np.linspace(0.5, 1.0, BINS + 1))
    mass, bins = error(np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1))) if count else np.array([0.5, 1]))
    squared = np.where(logits >= 0, confidence, 1 - confidence) - share
    return CalibrationFigures(
        width, mass, mean(squared**2, (0, 1)), mean(negative_log_likelihood(logits, share), (0, np.inf)), bins
    )


def _error_interval(
    gaps: NDArray[np.float64], shares: NDArray[np.float64], draws: NDArray[np.float64], count: int, clusters: int
) -> Interval:
    """Calibration error without the part that noise makes, and the interval that goes with it.

    A sum of absolute gaps is too large: chance alone opens gaps, and in resamples it comes twice. So it is asked which
    true gaps would make a sum as large as the one that was seen: those of the same shape, λ times as wide, with the
    noise of the resamples on top. The λ at which the sum seen is the median of what would be seen gives the value (0 if
    even λ = 0 gives more), those at which it is the upper and the lower quantile give the ends. Gaps that all have one
    sign, as those of a wrong temperature, vary more; so the ends are also asked of the same gap in all bins, and the
    interval holds both answers.

    Args:
        gaps: Agreement minus confidence of each bin times its share of the pairs, shape ``(K,)``.
        shares: Share of the pairs in each bin, shape ``(K,)``.
        draws: The gaps in every resample, shape ``(R, K)``.
        count: Pairs.
        clusters: Independent ones.

    Source: intervals by inverting a test with resamples: Carpenter 1999, JRSS B 61, 159-172; the bias itself and
    another way to take it off: Kumar, Liang and Ma 2019, "Verified Uncertainty Calibration", arXiv:1909.10155.
    """
    seen = float(np.abs(gaps).sum())
    if clusters < 2 or not len(draws):
        return Interval(seen, n=count, clusters=clusters)
    # Few clusters know the noise itself roughly, and resamples of n values vary by (n − 1)/n of what samples do.
    wider = student_quantile(CONFIDENCE, clusters - 1) / student_quantile(CONFIDENCE, np.inf)
    noise = (draws - gaps) * wider * np.sqrt(clusters / (clusters - 1))
    tail = (1 - CONFIDENCE) / 2
    errors = np.linspace(0, seen + 4 * np.abs(noise).sum(1).max(), 50)
    places = np.round(np.array([1 - tail, 0.5, tail]) * (len(noise) - 1)).astype(np.int64)
    found = []
    for shape in (gaps / seen if seen > 0 else shares, shares):
        sums = np.sort(np.abs(errors[:, None, None] * shape + noise).sum(2), axis=1)
        # Quantiles rise with the error but for the noise of the resamples; the largest so far makes them do so.
        rising = np.maximum.accumulate(sums[:, places])
        found.append([float(np.interp(seen, column, errors)) for column in rising.T])
    low, high = min(ends[0] for ends in found), max(ends[2] for ends in found)
    return Interval(found[0][1], low, min(1.0, high), count, clusters)
