"""The forms that gold scores follow under optimisation, fitted: where gold peaks, and what is lost by going on.

With ``d = √KL``: best-of-n follows ``R(d) = d (α − β d)``, reinforcement learning ``R(d) = d (α − β log d)``. Both
are linear in α and β, so a fit is a small least-squares problem, and thousands of bootstrap fits cost nothing.

Source: Gao, Schulman & Hilton 2022, arXiv:2210.10760, section 3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.statistics import Interval, Resampled

Form = Literal["best_of_n", "rl"]


class Fit(NamedTuple):
    """A fitted form.

    Attributes:
        form: Which.
        alpha: Gain per √nat at the beginning.
        beta: How fast the gain wears off.
        peak: Where gold is largest, √nats; NaN where β ≤ 0 or it lies outside what a float can hold.
        peak_gold: Gold there.
        peaks: Share of the bootstrap fits that have a peak inside the measured range.
        r_squared: Share of the curve's variance that the form explains.
    """

    form: Form
    alpha: Interval
    beta: Interval
    peak: Interval
    peak_gold: Interval
    peaks: float
    r_squared: float


def fit_form(d: ArrayLike, gold: ArrayLike, draws: ArrayLike, *, form: Form, prompts: int) -> Fit:
    """Fit a form to a curve that starts at 0, with bootstrap intervals.

    Args:
        d: √KL of the points, at least 0; points at 0 say nothing and are left out. Shape ``(K,)``, or ``(R, K)`` of
            the draws with the estimate in the first row.
        gold: Gold score minus that of the starting policy, shape ``(K,)``.
        draws: The same in every resample, shape ``(R, K)``.
        form: Which.
        prompts: How many were resampled.

    Raises:
        ShapeError: If the shapes disagree.
        ConfigError: If fewer than two points lie above 0.
    """
    values, drawn = np.asarray(gold, np.float64), np.asarray(draws, np.float64)
    places = np.atleast_2d(np.asarray(d, np.float64))
    if drawn.ndim != 2 or drawn.shape[1:] != values.shape or places.shape[1:] != values.shape:
        raise ShapeError(f"`d` {places.shape}, `gold` {values.shape} and `draws` {drawn.shape} must have K columns.")
    if len(places) not in (1, len(drawn) + 1):
        raise ShapeError(f"`d` has {len(places)} rows, expected 1 or {len(drawn) + 1}: the estimate and every draw.")
    kept = places[0] > 1e-9
    if kept.sum() < 2:
        raise ConfigError(f"fitting needs at least 2 points with KL > 0, got {kept.sum()}.")
    places = np.maximum(places[:, kept], 1e-9)
    stacked = np.vstack([values[kept], drawn[:, kept]])
    places = np.broadcast_to(places, stacked.shape)
    alphas, betas = least_squares(places, stacked, form)
    peaks, heights = peak_of(alphas, betas, form)
    n, furthest = int(kept.sum()), float(places[0].max())
    predicted = value_of(places[0], float(alphas[0]), float(betas[0]), form)
    total = float(((stacked[0] - stacked[0].mean()) ** 2).sum())
    alpha, beta, peak, height = (
        Resampled(float(rows[0]), rows[1:], n, prompts).interval() for rows in (alphas, betas, peaks, heights)
    )
    return Fit(
        form,
        alpha,
        beta,
        peak,
        height,
        float(np.mean(peaks[1:] < furthest)) if len(drawn) else float("nan"),
        1 - float(((stacked[0] - predicted) ** 2).sum()) / total if total > 0 else float("nan"),
    )


def least_squares(
    d: NDArray[np.float64], gold: NDArray[np.float64], form: Form
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """α and β of each row by ordinary least squares.

    Args:
        d: √KL, above 0, shape ``(R, K)``.
        gold: Gold, shape ``(R, K)``.
        form: Which.

    Returns:
        α and β, shape ``(R,)`` each.
    """
    x = d
    y = -(d * d) if form == "best_of_n" else -d * np.log(d)
    xx, xy, yy = (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)
    xg, yg = (x * gold).sum(1), (y * gold).sum(1)
    determinant = xx * yy - xy * xy
    with np.errstate(invalid="ignore", divide="ignore"):
        return (yy * xg - xy * yg) / determinant, (xx * yg - xy * xg) / determinant


def value_of(d: ArrayLike, alpha: float, beta: float, form: Form) -> NDArray[np.float64]:
    """The form's value at √KL `d`; 0 at 0."""
    places = np.asarray(d, np.float64)
    if form == "best_of_n":
        return places * (alpha - beta * places)
    return np.where(places > 0, places * (alpha - beta * np.log(np.maximum(places, 1e-300))), 0.0)


def peak_of(alpha: ArrayLike, beta: ArrayLike, form: Form) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the form is largest and its value there: ``α/2β`` and ``α²/4β``, or ``exp(α/β − 1)`` and ``β d*``.

    NaN where the form only falls or only rises (β ≤ 0, or α ≤ 0 for best-of-n).
    """
    a, b = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    with np.errstate(all="ignore"):
        if form == "best_of_n":
            exists = (b > 0) & (a > 0)
            return np.where(exists, a / (2 * b), np.nan), np.where(exists, a * a / (4 * b), np.nan)
        exponent = a / b - 1
        exists = (b > 0) & (exponent < 50)
        peak = np.where(exists, np.exp(np.minimum(exponent, 50)), np.nan)
        return peak, b * peak
