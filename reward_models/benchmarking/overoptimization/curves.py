"""Gold and proxy along a path of optimisation: best-of-n from a pool of samples, or a policy's checkpoints.

Everything is in standard deviations of the starting policy's samples, from their mean: gold 0 is no better than
before. The bootstrap draws prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_models.benchmarking.overoptimization.fits import Fit, fit_form
from textenv.errors import ShapeError
from textenv.statistics import ClusterBootstrap, Interval
from textenv.trajectories.estimators.best_of_n import best_of_n_kl, expected_best


class Curve(NamedTuple):
    """What optimisation against a proxy does.

    Attributes:
        name: Of the proxy.
        method: ``best_of_n`` or ``rl``.
        steps: n, or the number of training episodes, of each point, shape ``(K,)``.
        kl: Nats per answer, shape ``(K,)``.
        kl_interval: Lower and upper ends, shape ``(2, K)``; of best-of-n the KL is known.
        proxy: Proxy score of each point, less that of the starting policy on the same prompts.
        gold: Gold score of each point, likewise.
        fit: The fitted form, or None with fewer than two points.
        drop: Gold at its peak minus gold at the end; above 0 beyond its interval means over-optimised. The peak is
            looked for on one half of the prompts and measured on the other, so that noise makes no peak.
        shape_known: Whether gold rose by more than its interval before it fell by more than its interval.
    """

    name: str
    method: Literal["best_of_n", "rl"]
    steps: NDArray[np.int64]
    kl: NDArray[np.float64]
    kl_interval: NDArray[np.float64]
    proxy: tuple[Interval, ...]
    gold: tuple[Interval, ...]
    fit: Fit | None
    drop: Interval
    shape_known: bool


def best_of_n_path(
    proxy: ArrayLike,
    gold: ArrayLike,
    rng: np.random.Generator,
    *,
    name: str = "proxy",
    sizes: Sequence[int] | None = None,
    resamples: int = 1000,
) -> Curve:
    """Best-of-n from all samples at hand, unbiased for every n.

    Args:
        proxy: Proxy scores, a row of samples per prompt, shape ``(P, N)``.
        gold: Gold scores, same shape.
        rng: For the bootstrap over prompts.
        name: Of the proxy.
        sizes: Which n; powers of 2 up to N for None.
        resamples: Bootstrap resamples.

    Raises:
        ShapeError: If the shapes disagree or are not two-dimensional.
        ConfigError: If a size is out of range.
    Source: Nakano et al. 2021, arXiv:2112.09332, appendix I; KL by Stiennon et al. 2020, arXiv:2009.01325, G.3.
    """
    judged, worth = np.asarray(proxy, np.float64), np.asarray(gold, np.float64)
    if judged.ndim != 2 or judged.shape != worth.shape:
        raise ShapeError(f"`proxy` {judged.shape} and `gold` {worth.shape} must both be (prompts, samples).")
    most = judged.shape[1]
    chosen = np.array(sizes if sizes is not None else [2**i for i in range(most.bit_length()) if 2**i <= most])
    base = _standard(judged), _standard(worth)
    ours = np.stack([expected_best(base[0], int(n)) for n in chosen], axis=1) - base[0].mean(1, keepdims=True)
    theirs = np.stack([expected_best(base[0], int(n), values=base[1]) for n in chosen], axis=1)
    theirs -= base[1].mean(1, keepdims=True)
    kl = np.tile(best_of_n_kl(chosen), (len(judged), 1))
    return _curve(name, "best_of_n", chosen, kl, ours, theirs, rng, resamples)


def policy_path(
    kl: ArrayLike,
    proxy: ArrayLike,
    gold: ArrayLike,
    steps: Sequence[int],
    rng: np.random.Generator,
    *,
    name: str = "proxy",
    resamples: int = 1000,
) -> Curve:
    """A policy's checkpoints on the same prompts; the first one is the starting policy.

    Args:
        kl: log π − log π_ref of each answer, nats, shape ``(K, P, S)``: checkpoints, prompts, samples.
        proxy: Proxy scores, same shape.
        gold: Gold scores, same shape.
        steps: Training episodes of each checkpoint.
        rng: For the bootstrap over prompts.
        name: Of the proxy.
        resamples: Bootstrap resamples.

    Raises:
        ShapeError: If the shapes disagree.
    """
    arrays = [np.asarray(values, np.float64) for values in (kl, proxy, gold)]
    if any(values.ndim != 3 or values.shape != arrays[0].shape for values in arrays):
        raise ShapeError(
            f"`kl`, `proxy` and `gold` must be (checkpoints, prompts, samples), got "
            f"{[values.shape for values in arrays]}."
        )
    if len(steps) != len(arrays[0]):
        raise ShapeError(f"got {len(steps)} steps for {len(arrays[0])} checkpoints.")
    by_prompt = [values.mean(2).T for values in arrays]
    scaled = [
        (found - found[:, [0]]) / max(float(values[0].std()), 1e-12)
        for found, values in zip(by_prompt[1:], arrays[1:], strict=True)
    ]
    return _curve(name, "rl", np.asarray(steps, np.int64), by_prompt[0], scaled[0], scaled[1], rng, resamples)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1 over all samples of the starting policy."""
    return (values - values.mean()) / max(float(values.std()), 1e-12)


def _curve(
    name: str,
    method: Literal["best_of_n", "rl"],
    steps: NDArray[np.int64],
    kl: NDArray[np.float64],
    proxy: NDArray[np.float64],
    gold: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int,
) -> Curve:
    """A curve from per-prompt values, each of shape ``(P, K)``."""
    count = len(gold)
    bootstrap = ClusterBootstrap(np.arange(count), rng, resamples=resamples)
    (kl_mean, kl_draws), (gold_mean, gold_draws) = bootstrap.means(kl), bootstrap.means(gold)
    # Forms start at 0: the starting policy's own mean is taken off, in every resample its own.
    from_start, draws_from_start = gold_mean - gold_mean[0], gold_draws - gold_draws[:, [0]]
    distance = np.sqrt(np.maximum(np.vstack([kl_mean, kl_draws]), 0))
    fit = None
    # A proxy without an opinion moves nothing: rounding errors have no form.
    if (distance[0] > 1e-9).sum() >= 2 and np.abs(from_start).max() > 1e-9:
        fit = fit_form(distance, from_start, draws_from_start, form=method, prompts=count)
    spent = [found.interval() for found in bootstrap.cluster_means(kl)]
    # Of best-of-n the KL is known, and without resamples no more than the mean is.
    ends = np.array([(k.low, k.high) if np.isfinite(k.low) else (k.value, k.value) for k in spent]).T
    drop, rise = _drop(gold, bootstrap, rng)
    return Curve(
        name,
        method,
        steps,
        kl_mean,
        ends,
        tuple(found.interval() for found in bootstrap.cluster_means(proxy)),
        tuple(found.interval() for found in bootstrap.cluster_means(gold)),
        fit,
        drop,
        bool(rise.low > 0 and drop.low > 0),
    )


def _drop(
    gold: NDArray[np.float64], bootstrap: ClusterBootstrap, rng: np.random.Generator
) -> tuple[Interval, Interval]:
    """Fall from the peak to the end and rise from the start to the peak, the peak found on the other half."""
    count = len(gold)
    if count < 4:
        return Interval(float("nan")), Interval(float("nan"))
    half = rng.permutation(count) % 2 == 0
    falls, rises = np.empty(count), np.empty(count)
    for own in (half, ~half):
        peak = int(gold[~own].mean(0).argmax())
        falls[own], rises[own] = gold[own, peak] - gold[own, -1], gold[own, peak] - gold[own, 0]
    drop, rise = bootstrap.cluster_means(np.stack([falls, rises], axis=1))
    return drop.interval(), rise.interval()
