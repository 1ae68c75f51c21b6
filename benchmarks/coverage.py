"""How often the intervals that textenv prints hold the truth: every kind of them, on samples whose truth is known.

Prints the table of ``docs/statistics.md``: ``python -m benchmarks.coverage`` (all designs, some minutes), or ``--only
calibration`` for the rows with that word. The tests measure the same designs with fewer samples.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking import Pairs, SuiteData
from reward_models.benchmarking.measures.accuracy import suite_accuracy
from reward_models.benchmarking.measures.calibration import _figures
from reward_models.benchmarking.measures.ceiling import human_ceiling
from reward_models.benchmarking.measures.choices import choice_accuracy
from reward_models.benchmarking.measures.length import length_bias
from reward_models.benchmarking.measures.ranking import ranking
from reward_models.benchmarking.overoptimization.curves import best_of_n_path
from reward_models.benchmarking.report.leaderboard import _mean as mean_of_suites
from reward_models.labels import Comparison
from reward_models.metrics import human_rater_accuracy, pair_accuracy
from reward_models.training import measure
from textenv.feedback.measures.agreement import alpha_estimate, choice_values, pairwise_agreement
from textenv.feedback.measures.bias import position_bias, rank_correlation
from textenv.feedback.measures.ceiling import beta_ceiling, noise_ceiling
from textenv.feedback.measures.leaderboard import MEAN_RATING, POINTS, Battles, elo, leaderboard
from textenv.feedback.measures.win_rates import mean_ratings, win_rates
from textenv.statistics import (
    ClusterBootstrap,
    Interval,
    Resampled,
    bootstrap_interval,
    clustered_share,
    mean_estimate,
    mean_interval,
    paired_difference,
)
from textenv.trajectories import ImportanceWeights, Ragged, best_of_n_curve, kl_estimate, per_token

Rng = np.random.Generator
Sample = Callable[[Rng], tuple[Interval | tuple[float, float], float]]
"""Draws a sample; its interval, and the truth."""

RESAMPLES = 400


class Row(NamedTuple):
    """One kind of interval.

    Attributes:
        name: What it is the interval of.
        where: Who prints it.
        method: How it is made.
        clusters: What is independent.
        designs: Samples by name.
        slow: Whether a sample takes longer than some milliseconds, so that the tests draw fewer.
    """

    name: str
    where: str
    method: str
    clusters: str
    designs: Mapping[str, Sample]
    slow: bool = False


# --- values and shares ------------------------------------------------------------------------------------------------

DRAWS: dict[str, tuple[Callable[[Rng, int], NDArray], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "log-normal": (lambda rng, n: rng.lognormal(0, 0.8, size=n), math.exp(0.32)),
    "t with 4 degrees": (lambda rng, n: rng.standard_t(4, size=n), 0.0),
    "uniform": (lambda rng, n: rng.random(n), 0.5),
}


def _values(rng: Rng, kind: str, clusters: int, size: int) -> tuple[NDArray, NDArray, float]:
    """Values of clusters that share most of what they are; mean and clusters."""
    draw, truth = DRAWS[kind]
    index = np.repeat(np.arange(clusters), size)
    return draw(rng, clusters)[index] + 0.3 * rng.normal(size=clusters * size), index, truth


def _mean(rng: Rng, kind: str, clusters: int, size: int, how: str) -> tuple[Interval | tuple[float, float], float]:
    values, index, truth = _values(rng, kind, clusters, size)
    match how:
        case "student":
            return mean_estimate(values).interval(), truth
        case "units":
            return mean_interval(values, index), truth
        case "bootstrap":
            return bootstrap_interval(values, rng, groups=index, resamples=RESAMPLES), truth
        case _:
            return ClusterBootstrap(index, rng, resamples=RESAMPLES).item_mean(values).interval(), truth


def _share(rng: Rng, truth: float, clusters: int, size: int, how: str, *, alike: float = 2.0):
    """Yes and no by clusters whose own shares are Beta distributed around the truth (the less `alike`, the closer)."""
    own = rng.beta(alike * truth, alike * (1 - truth), size=clusters)[:, None] if alike else truth
    values, index = (rng.random((clusters, size)) < own).astype(float).ravel(), np.repeat(np.arange(clusters), size)
    match how:
        case "share":
            return clustered_share(values, index), truth
        case "reward":
            return mean_interval(values, index), truth
        case _:
            return ClusterBootstrap(index, rng, resamples=RESAMPLES).item_mean(values).interval((0, 1)), truth


def _by_rater(rng: Rng, prompts: int, per: int, raters: int, spread: float, truth: float = 0.7):
    prompt, rater = np.repeat(np.arange(prompts), per), rng.integers(raters, size=prompts * per)
    chance = truth + rng.uniform(-0.15, 0.15, prompts)[prompt] + spread * rng.uniform(-1, 1, raters)[rater]
    labels = [
        Comparison(f"p{p}", "good", "bad", rater=f"r{r}") if yes else Comparison(f"p{p}", "bad", "good", rater=f"r{r}")
        for p, r, yes in zip(prompt, rater, rng.random(len(prompt)) < chance, strict=True)
    ]
    return measure(_Knows(), labels, rng, resamples=RESAMPLES)["accuracy"], truth


class _Knows:
    def score(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [float(response == "good") for response in responses]


def _ratio(rng: Rng, groups: int, size: int):
    lengths = 1 + rng.geometric(0.1, size=groups * size)
    index = np.repeat(np.arange(groups), size)
    per = 0.5 + 0.3 * rng.normal(size=groups)[index]
    sums = lengths * per + rng.normal(size=len(lengths))
    rows = Ragged.from_rows([np.full(n, s / n) for n, s in zip(lengths, sums, strict=True)])
    return per_token(rows, groups=index).interval(), 0.5


def _kl(rng: Rng, groups: int, size: int, estimator: str):
    """Gaussian steps: log-ratios N(m²/2, m²), so that the KL is the sum of m²/2."""
    index, steps = np.repeat(np.arange(groups), size), 6
    shift = rng.gamma(4, 0.1, size=groups)[index]
    rows = [m * m / 2 + m * rng.normal(size=steps) for m in shift]
    truth = steps * (4 * 0.01 + (4 * 0.1) ** 2) / 2
    return kl_estimate(Ragged.from_rows(rows), estimator=estimator, groups=index).interval(), truth  # pyright: ignore


def _weighted(rng: Rng, prompts: int, size: int, shift: float, normalized: bool):
    """Answers of N(0, 1), weighed towards N(shift, 1); values depend on the answer and on the prompt."""
    index = np.repeat(np.arange(prompts), size)
    x = rng.normal(size=len(index))
    values = x + rng.normal(size=prompts)[index]
    weights = ImportanceWeights(
        Ragged.from_rows([np.array([shift * each - shift**2 / 2]) for each in x]),
        np.ones(len(x), bool), np.zeros(len(x), bool), None, index,
    )  # fmt: skip
    return weights.estimate(values, self_normalized=normalized).interval(), shift


def _paired(rng: Rng, prompts: int, kind: str):
    draw, truth = DRAWS[kind]
    base = rng.normal(0, 3, prompts)
    return paired_difference(base, base + draw(rng, prompts)).interval(), truth


# --- reward models ----------------------------------------------------------------------------------------------------


def _suite(pairs: Pairs, clusters: NDArray, words: NDArray | None = None, gold: NDArray | None = None) -> SuiteData:
    texts = tuple(" ".join(["w"] * int(n)) for n in words) if words is not None else tuple("r" for _ in clusters)
    return SuiteData("s", "S", tuple(f"p{c}" for c in clusters), texts, pairs, clusters, gold)


def _pairs_of_prompts(prompts: int, answers: int) -> tuple[NDArray, NDArray, NDArray]:
    """Items of prompts, and all pairs within prompts."""
    first, second = np.triu_indices(answers, 1)
    start = answers * np.arange(prompts)[:, None]
    return np.repeat(np.arange(prompts), answers), (start + first).ravel(), (start + second).ravel()


def _skilled(rng: Rng, clusters: NDArray, skill: float) -> tuple[NDArray, NDArray]:
    """Gold values, and scores that know them to some degree, that of the prompt."""
    gold = rng.normal(size=len(clusters))
    own = skill * np.exp(0.5 * rng.normal(size=clusters.max() + 1))[clusters]
    return gold, own * gold + rng.normal(size=len(clusters))


@lru_cache(maxsize=64)
def _truth(figure: str, *arguments: float) -> float:
    """Of a figure that has no formula: its value on a large sample."""
    rng = np.random.default_rng(12345)
    return float(TRUTHS[figure](rng, *arguments))


def _pair_suite(rng: Rng, prompts: int, answers: int, skill: float) -> tuple[SuiteData, NDArray]:
    clusters, a, b = _pairs_of_prompts(prompts, answers)
    gold, scores = _skilled(rng, clusters, skill)
    better = gold[a] > gold[b]
    words = rng.integers(5, 30, len(clusters)) + np.round(3 * gold).astype(int) + 20
    return _suite(Pairs.of(np.where(better, a, b), np.where(better, b, a)), clusters, words, gold), scores


def _large_accuracy(rng: Rng, answers: float, skill: float) -> float:
    suite, scores = _pair_suite(rng, 40_000, int(answers), skill)
    return float((scores[suite.pairs.better] > scores[suite.pairs.worse]).mean())


def _accuracy(rng: Rng, prompts: int, answers: int, skill: float):
    suite, scores = _pair_suite(rng, prompts, answers, skill)
    bootstrap = ClusterBootstrap(suite.clusters, rng, resamples=RESAMPLES)
    return suite_accuracy(scores, suite, bootstrap).overall, _truth("accuracy", answers, skill)


def _difference(rng: Rng, prompts: int, skill: float, other: float):
    suite, scores = _pair_suite(rng, prompts, 2, skill)
    theirs = scores + other * rng.normal(size=len(scores))
    bootstrap = ClusterBootstrap(suite.clusters, rng, resamples=RESAMPLES)
    ours, their = (suite_accuracy(each, suite, bootstrap).resampled for each in (scores, theirs))
    return (ours - their).interval((-1, 1)), _truth("difference", skill, other)


def _large_difference(rng: Rng, skill: float, other: float) -> float:
    suite, scores = _pair_suite(rng, 60_000, 2, skill)
    theirs = scores + other * rng.normal(size=len(scores))
    a, b = suite.pairs.better, suite.pairs.worse
    return float((scores[a] > scores[b]).mean() - (theirs[a] > theirs[b]).mean())


def _over_pairs(rng: Rng, items: int, skill: float):
    gold, scores = _skilled(rng, np.arange(items), skill)
    found = pair_accuracy(scores, gold, rng, gaps=(0.0,), resamples=RESAMPLES)[0.0]
    return found, _truth("over pairs", skill)


def _large_over_pairs(rng: Rng, skill: float) -> float:
    gold, scores = _skilled(rng, np.arange(400_000), skill)
    return float(((gold[::2] > gold[1::2]) == (scores[::2] > scores[1::2])).mean())


def _rank(rng: Rng, prompts: int, answers: int, skill: float, figure: str):
    if answers == 1:
        gold, scores = _skilled(rng, np.arange(prompts), skill)
        suite = _suite(Pairs.of([], []), np.arange(prompts), None, gold)
    else:
        suite, scores = _pair_suite(rng, prompts, answers, skill)
    found = ranking(scores, suite, ClusterBootstrap(suite.clusters, rng, resamples=RESAMPLES))
    assert found is not None
    return getattr(found, figure), _truth("rank", answers, skill, 0.0 if figure == "kendall" else 1.0)


def _large_rank(rng: Rng, answers: float, skill: float, spearman: float) -> float:
    from scipy import stats

    measured = stats.spearmanr if spearman else stats.kendalltau
    if answers == 1:
        found = measured(*_skilled(rng, np.arange(60_000), skill))
        return float(found[0])  # pyright: ignore[reportArgumentType]
    table = np.stack(
        [each.reshape(-1, int(answers)) for each in _skilled(rng, np.repeat(np.arange(2000), int(answers)), skill)]
    )
    return float(np.mean([measured(a, b)[0] for a, b in zip(*table, strict=True)]))  # pyright: ignore


def _length(rng: Rng, prompts: int, skill: float, figure: str):
    suite, scores = _pair_suite(rng, prompts, 4, skill)
    bootstrap = ClusterBootstrap(suite.clusters, rng, resamples=RESAMPLES)
    return getattr(length_bias(scores, suite, bootstrap), figure), _truth("length", skill, _LENGTHS.index(figure))


_LENGTHS = ("correlation", "difference", "prefers_longer")


def _large_length(rng: Rng, skill: float, figure: float) -> float:
    suite, scores = _pair_suite(rng, 15_000, 4, skill)
    bootstrap = ClusterBootstrap(suite.clusters, rng, resamples=0)
    return getattr(length_bias(scores, suite, bootstrap), _LENGTHS[int(figure)]).value


def _choice(rng: Rng, prompts: int, lead: float):
    from reward_models.benchmarking.data import Choice

    clusters = np.repeat(np.arange(prompts), 4)
    scores = rng.normal(size=4 * prompts)
    scores[::4] += lead
    choices = tuple(Choice((4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3), 1, "all", str(i)) for i in range(prompts))
    suite = SuiteData(
        "s", "S", ("p",) * len(clusters), ("r",) * len(clusters), Pairs.of([], []), clusters, None, None, choices
    )
    found = choice_accuracy(scores, suite, ClusterBootstrap(clusters, rng, resamples=RESAMPLES))
    assert found is not None
    return found.subsets["all"], _truth("choice", lead)


def _large_choice(rng: Rng, lead: float) -> float:
    scores = rng.normal(size=(200_000, 4))
    scores[:, 0] += lead
    return float((scores.argmax(1) == 0).mean())


def _calibrated(rng: Rng, prompts: int, spread: float, temperature: float, figure: str, pairs: int = 1):
    """Scores whose differences are `temperature` times the log-odds; pairs of one prompt share a part of them."""
    logits = spread * (
        np.sqrt(0.5) * rng.normal(size=prompts)[:, None] + np.sqrt(0.5) * rng.normal(size=(prompts, pairs))
    )
    logits = logits.ravel()
    right = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    index = np.repeat(np.arange(prompts), pairs)
    bootstrap = ClusterBootstrap(np.repeat(index, 2), rng, resamples=RESAMPLES)
    suite = Pairs.of(np.arange(0, 2 * len(logits), 2), np.arange(1, 2 * len(logits), 2))
    found = _figures(temperature * np.where(right, logits, -logits), suite, np.arange(len(logits)), bootstrap)
    return getattr(found, figure), _truth("calibration", spread, temperature, _CALIBRATION.index(figure))


_CALIBRATION = ("ece", "ece_mass", "brier", "nll")


def _large_calibration(rng: Rng, spread: float, temperature: float, figure: float) -> float:
    logits = np.abs(spread * rng.normal(size=400_000))
    truth, said = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-temperature * logits))
    errors = (
        np.abs(truth - said), np.abs(truth - said), truth * (1 - said) ** 2 + (1 - truth) * said**2,
        np.logaddexp(0, -temperature * logits) + (1 - truth) * temperature * logits,
    )  # fmt: skip
    return float(errors[int(figure)].mean())


def _best_of_n(rng: Rng, prompts: int, samples: int):
    scores = rng.normal(size=(prompts, samples)) + rng.normal(size=prompts)[:, None]
    curve = best_of_n_curve(scores, sizes=[2])
    return (float(curve.ends[0, 0]), float(curve.ends[1, 0])), 1 / math.sqrt(math.pi)


def _optimised(rng: Rng, prompts: int):
    """Gold of the best of four by a proxy that knows half of it, in standard deviations."""
    proxy = rng.normal(size=(prompts, 16))
    gold = 0.7 * proxy + np.sqrt(1 - 0.49) * rng.normal(size=proxy.shape)
    curve = best_of_n_path(proxy, gold, rng, sizes=[1, 4], resamples=RESAMPLES)
    return curve.gold[1], 0.7 * 1.0293753730039641  # the mean of the largest of four normal draws


def _fitted(rng: Rng, prompts: int, figure: str):
    """The form of gold against KL, where gold gains less and less."""
    proxy = rng.normal(size=(prompts, 16))
    gold = proxy - 0.25 * proxy**2 + rng.normal(size=proxy.shape)
    fit = best_of_n_path(proxy, gold, rng, resamples=RESAMPLES).fit
    assert fit is not None
    return getattr(fit, figure), _truth("fitted", float(figure == "beta"))


def _large_fitted(rng: Rng, beta: float) -> float:
    proxy = rng.normal(size=(60_000, 16))
    gold = proxy - 0.25 * proxy**2 + rng.normal(size=proxy.shape)
    fit = best_of_n_path(proxy, gold, rng, resamples=0).fit
    assert fit is not None
    return (fit.beta if beta else fit.alpha).value


def _over_tasks(rng: Rng, sizes: Sequence[int], truths: Sequence[float]):
    parts = [
        ClusterBootstrap(np.arange(n), rng, resamples=RESAMPLES).item_mean((rng.random(n) < p).astype(float))
        for n, p in zip(sizes, truths, strict=True)
    ]
    return Resampled.mean(parts).interval((0, 1)), float(np.mean(truths))


def _over_suites(rng: Rng, sizes: Sequence[int], truths: Sequence[float]):
    found = [clustered_share(rng.random(n) < p).to_json() for n, p in zip(sizes, truths, strict=True)]
    mean = mean_of_suites(found)
    assert mean is not None
    return (mean["low"], mean["high"]), float(np.mean(truths))


def _reliability(rng: Rng, pairs: int, place: int):
    """A calibrated model's bin: what comes out is what was said."""
    logits = 1.5 * rng.normal(size=pairs)
    right = rng.random(pairs) < 1 / (1 + np.exp(-logits))
    bootstrap = ClusterBootstrap(np.repeat(np.arange(pairs), 2), rng, resamples=RESAMPLES)
    suite = Pairs.of(np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2))
    one = _figures(np.where(right, logits, -logits), suite, np.arange(pairs), bootstrap).bins[place]
    return one.agreement, one.confidence


def _rated(rng: Rng, items: int, raters: int) -> tuple[NDArray, NDArray]:
    truth = rng.normal(3, 1, size=items)
    return truth, truth[:, None] + rng.normal(size=(items, raters))


def _one_rater(rng: Rng, items: int, raters: int):
    ratings = _rated(rng, items, raters)[1].tolist()
    found = human_rater_accuracy(ratings, rng, gaps=(0.0,), resamples=RESAMPLES)[0.0]
    return found, _truth("one rater", raters)


def _large_one_rater(rng: Rng, raters: float) -> float:
    ratings = _rated(rng, 1500, int(raters))[1].tolist()
    return human_rater_accuracy(ratings, rng, gaps=(0.0,), resamples=0)[0.0].value


def _ceiling_of_items(rng: Rng, items: int, raters: int):
    _, ratings = _rated(rng, items, raters)
    means = ratings.mean(1)
    a, b = np.triu_indices(items, 1)
    better, worse = np.where(means[a] > means[b], a, b), np.where(means[a] > means[b], b, a)
    pairs = Pairs.of(better, worse, gap=means[better] - means[worse])
    texts = ("t",) * items
    suite = SuiteData("s", "S", texts, texts, pairs, np.arange(items), means, tuple(tuple(row) for row in ratings))
    bootstrap = ClusterBootstrap(np.arange(items), rng, resamples=RESAMPLES)
    return human_ceiling(suite, bootstrap, rng, draws=1).perfect[0.0], _truth("ceiling", raters)


def _large_ceiling(rng: Rng, raters: float) -> float:
    truth, ratings = _rated(rng, 400_000, int(raters))
    means = ratings.mean(1)
    return float(((truth[::2] > truth[1::2]) == (means[::2] > means[1::2])).mean())


# --- people -----------------------------------------------------------------------------------------------------------


def _raters(rng: Rng, items: int, raters: int, spread: float) -> tuple[NDArray, NDArray, NDArray]:
    """Choices between two answers by people who share an opinion on each item: values, units, and its chances."""
    chance = rng.beta(spread, spread, size=items)
    units = np.repeat(np.arange(items), raters)
    return (rng.random(len(units)) < chance[units]).astype(float), units, chance


def _ceiling(rng: Rng, items: int, raters: int, spread: float):
    values, units, _ = _raters(rng, items, raters, spread)
    found = noise_ceiling(values, units)
    return (found.low, found.high), beta_ceiling(1 / (4 * (2 * spread + 1)))


def _agreement(rng: Rng, items: int, raters: int, spread: float):
    values, units, _ = _raters(rng, items, raters, spread)
    return pairwise_agreement(values, units).interval(), 0.5 + 2 / (4 * (2 * spread + 1))


def _alpha(rng: Rng, items: int, raters: int, spread: float):
    values, units, _ = _raters(rng, items, raters, spread)
    found = choice_values(values, units)
    # Choices stand for both directions: expected disagreement ½, observed ½ − 2 D.
    return alpha_estimate(found.values, found.units, level="nominal", clusters=found.clusters).interval(), 4 / (
        4 * (2 * spread + 1)
    )


def _position(rng: Rng, labels: int, truth: float):
    first = rng.random(labels) < 0.5
    earlier = rng.random(labels) < truth
    return position_bias(np.where(first == earlier, 1.0, 0.0), first, np.arange(labels)), truth


def _correlated(rng: Rng, items: int, r: float):
    a = rng.normal(size=items)
    b = r * a + np.sqrt(1 - r * r) * rng.normal(size=items)
    return rank_correlation(a, b), 6 / np.pi * np.arcsin(r / 2)


def _win_rate(rng: Rng, prompts: int, raters: int, truth: float):
    own = rng.beta(3 * truth, 3 * (1 - truth), size=prompts)
    values = (rng.random((prompts, raters)) < own[:, None]).astype(float).ravel()
    index = np.repeat(np.arange(prompts), raters)
    zero = np.zeros(len(values), np.int64)
    (found,) = win_rates(values, zero, zero + 1, index, ["new", "old"])
    share = found.share
    return (share, truth) if found.first == "new" else (Interval(1 - share.value, 1 - share.high, 1 - share.low), truth)


def _mean_rating(rng: Rng, prompts: int, answers: int):
    worth = np.clip(rng.integers(0, 5, prompts)[:, None] + rng.integers(-1, 2, (prompts, answers)), 0, 4) / 4
    index = np.repeat(np.arange(prompts), answers)
    (found,) = mean_ratings(worth.ravel(), np.zeros(len(index), np.int64), index, ["new"])
    return found.share, 0.5


def _battles(rng: Rng, abilities: NDArray, prompts: int, per: int, ties: float) -> Battles:
    index, count = np.repeat(np.arange(prompts), per), len(abilities)
    first = rng.integers(count, size=len(index))
    second = (first + rng.integers(1, count, size=len(index))) % count
    chance = 1 / (1 + np.exp(abilities[second] - abilities[first]))
    tied = 2 * ties * np.minimum(chance, 1 - chance)
    u = rng.random(len(index))
    values = np.where(u < chance - tied / 2, 1.0, np.where(u < chance + tied / 2, 0.5, 0.0))
    return Battles(values, first, second, index, None, tuple(f"p{k}" for k in range(count)))


def _rating(rng: Rng, spread: float, policies: int, prompts: int, per: int, ties: float):
    abilities = np.linspace(-spread, spread, policies)
    battles = _battles(rng, abilities, prompts, per, ties)
    best = next((each for each in leaderboard(battles, rng, elo_too=False) if each.policy == f"p{policies - 1}"), None)
    return (best.rating if best else Interval(math.nan)), MEAN_RATING + POINTS * spread


def _elo(rng: Rng, spread: float, policies: int, prompts: int):
    abilities = np.linspace(-spread, spread, policies)
    return elo(_battles(rng, abilities, prompts, 1, 0.2), rng)[-1], _truth("elo", spread, policies, prompts)


def _large_elo(rng: Rng, spread: float, policies: float, prompts: float) -> float:
    """Mean over fresh samples of battles, each in random order."""
    from textenv.feedback.measures.leaderboard import _played

    found = []
    for _ in range(60):
        battles = _battles(rng, np.linspace(-spread, spread, int(policies)), 20 * int(prompts), 1, 0.2)
        order = rng.permutation(20 * int(prompts)).reshape(20, -1)
        found.append(_played(battles, list(order))[:, -1].mean())
    return float(np.mean(found))


TRUTHS: dict[str, Callable[..., float]] = {
    "accuracy": _large_accuracy,
    "difference": _large_difference,
    "over pairs": _large_over_pairs,
    "rank": _large_rank,
    "length": _large_length,
    "choice": _large_choice,
    "calibration": _large_calibration,
    "elo": _large_elo,
    "fitted": _large_fitted,
    "one rater": _large_one_rater,
    "ceiling": _large_ceiling,
}


def _designs(sample: Callable[..., object], **designs: tuple) -> dict[str, Sample]:
    return {name.replace("_", " "): partial(_call, sample, arguments) for name, arguments in designs.items()}


def _call(sample: Callable, arguments: tuple, rng: Rng):
    return sample(rng, *arguments)


def _means(how: str) -> dict[str, Sample]:
    sizes = {"student": ((3, 1), (5, 1), (30, 1)), "units": ((5, 8), (12, 4), (60, 2))}.get(how, ((5, 8), (30, 3)))
    found = {
        f"{kind}, {n} × {k}": partial(_call, _mean, (kind, n, k, how))
        for kind in ("normal", "uniform", "exponential") for n, k in sizes
    }  # fmt: skip
    return found | {
        f"{kind}, 60": partial(_call, _mean, (kind, 60, 1, how)) for kind in ("log-normal", "t with 4 degrees")
    }


def _shares(how: str) -> dict[str, Sample]:
    grid = ((0.5, 4, 1), (0.9, 5, 8), (0.7, 12, 3), (0.95, 30, 4), (0.5, 100, 2), (0.02, 100, 1))
    return {f"{p:.0%}, {n} × {k}": partial(_call, _share, (p, n, k, how)) for p, n, k in grid}


STUDENT = "Student's, skewness taken off"
SHARE = "exact (mid-P), for what clusters are worth"
DRAWN = "bootstrap's error and skewness, Student's quantile"

ROWS = (
    Row("mean of a group", "benchmark: names, identities", STUDENT, "names, sentences", _means("student")),
    Row("mean reward", "`evaluate_policy`, reports, trainings", STUDENT, "distinct prompts", _means("units")),
    Row(
        "verified reward (all 0 or 1)",
        "`evaluate_policy`, `trajectories stats`",
        SHARE,
        "distinct prompts",
        _shares("reward"),
    ),
    Row("mean score", "`trajectories stats`", STUDENT, "prompts", _means("bootstrap")),
    Row(
        "shift, shares' others",
        "benchmark: probes; `evaluate` (tokens, log-likelihood, KL)",
        DRAWN,
        "pairs, prompts",
        _means("items"),
    ),
    Row("accuracy, answered, eos …", "`textenv evaluate`", SHARE, "prompts", _shares("items")),
    Row(
        "win rate, ratings, gold, agreement",
        "dashboard",
        SHARE,
        "prompts, items, labels",
        _shares("share")
        | _designs(_win_rate, win_rate_30_x_3=(30, 3, 0.6))
        | _designs(_mean_rating, ratings_20_x_3=(20, 3)),
    ),
    Row(
        "first shown preferred",
        "dashboard",
        SHARE,
        "labels",
        _designs(_position, half_of_8=(8, 0.5), most_of_60=(60, 0.8)),
    ),
    Row(
        "paired difference",
        "`trajectories compare`, `improve`",
        STUDENT,
        "shared prompts",
        {
            f"{kind}, {n}": partial(_call, _paired, (n, kind))
            for kind in ("normal", "exponential")
            for n in (5, 20, 200)
        },
    ),
    Row(
        "nats or length per token",
        "`trajectories stats`",
        STUDENT + ", jackknife",
        "prompts",
        _designs(_ratio, few=(5, 4), some=(20, 2), many=(100, 4)),
    ),
    Row(
        "KL (k1, k3, exact)",
        "`trajectories stats`, frontier",
        STUDENT,
        "prompts",
        _designs(_kl, k1_5_x_4=(5, 4, "k1"), k1_40_x_2=(40, 2, "k1"), k3_40_x_2=(40, 2, "k3")),
    ),
    Row(
        "mean under another policy",
        "`ImportanceWeights.estimate`",
        STUDENT + ", jackknife",
        "equal prompts",
        _designs(
            _weighted,
            plain_5_x_8=(5, 8, 0.3, False),
            plain_30_x_4=(30, 4, 0.5, False),
            normalised_5_x_8=(5, 8, 0.3, True),
            normalised_30_x_4=(30, 4, 0.5, True),
            normalised_100_x_1=(100, 1, 0.7, True),
        ),
    ),
    Row("best of n", "frontier", STUDENT, "prompts", _designs(_best_of_n, few=(6, 8), many=(60, 8))),
    Row(
        "accuracy on labels",
        "reward training, card, `improve`",
        SHARE,
        "prompts and raters",
        _designs(
            _by_rater,
            one_rater=(40, 1, 1, 0.0),
            no_own_taste=(60, 2, 8, 0.0),
            tastes_of_5=(100, 2, 5, 0.25),
            tastes_of_15=(150, 2, 15, 0.15),
            few_prompts=(8, 1, 3, 0.0),
        ),
    ),
    Row(
        "pair accuracy",
        "benchmark",
        SHARE,
        "prompts",
        _designs(_accuracy, few=(8, 2, 1.0), some=(30, 4, 1.0), sure=(60, 2, 8.0), many=(200, 3, 0.5)),
    ),
    Row(
        "accuracy over all pairs of texts",
        "benchmark, quickstart, card",
        SHARE,
        "texts (U-statistic)",
        _designs(_over_pairs, few=(12, 1.0), some=(60, 1.0), sure=(80, 6.0)),
    ),
    Row(
        "difference of two accuracies",
        "benchmark",
        DRAWN + ", halves added",
        "prompts",
        _designs(_difference, few=(15, 1.0, 1.0), some=(60, 1.0, 0.5), close=(200, 1.0, 0.2)),
    ),
    Row(
        "best-of-4 accuracy",
        "benchmark",
        SHARE,
        "prompts",
        _designs(_choice, few=(10, 1.0), some=(80, 1.0), sure=(80, 4.0)),
    ),
    Row(
        "Kendall, Spearman over texts",
        "benchmark",
        DRAWN,
        "texts",
        _designs(
            _rank,
            kendall_20=(20, 1, 1.0, "kendall"),
            kendall_60=(60, 1, 1.0, "kendall"),
            spearman_60=(60, 1, 2.0, "spearman"),
        ),
        True,
    ),
    Row(
        "Kendall, Spearman within prompts",
        "benchmark",
        DRAWN,
        "prompts",
        _designs(_rank, kendall_10=(10, 4, 1.0, "kendall"), spearman_40=(40, 4, 2.0, "spearman")),
        True,
    ),
    Row(
        "length bias",
        "benchmark",
        DRAWN,
        "prompts",
        _designs(
            _length,
            correlation_12=(12, 1.0, "correlation"),
            correlation_60=(60, 1.0, "correlation"),
            difference_40=(40, 1.0, "difference"),
            prefers_40=(40, 1.0, "prefers_longer"),
        ),
    ),
    Row(
        "calibration error",
        "benchmark",
        "test inversion",
        "prompts",
        {
            f"{kind}, {n} × {k}, {figure}": partial(_call, _calibrated, (n, spread, t, figure, k))
            for kind, spread, t in (
                ("calibrated", 1.5, 1.0),
                ("overconfident", 1.5, 2.0),
                ("underconfident", 1.5, 0.5),
                ("sure", 5.0, 1.0),
            )
            for n, k, figure in (
                (50, 1, "ece"),
                (200, 1, "ece"),
                (200, 1, "ece_mass"),
                (100, 3, "ece"),
                (1000, 1, "ece"),
            )
        },
        True,
    ),
    Row(
        "Brier score, likelihood",
        "benchmark",
        DRAWN,
        "prompts",
        _designs(
            _calibrated,
            brier_30=(30, 1.5, 1.0, "brier"),
            brier_200=(200, 1.5, 2.0, "brier"),
            nll_30=(30, 1.5, 1.0, "nll"),
            nll_200=(200, 1.5, 2.0, "nll"),
        ),
        True,
    ),
    Row(
        "one point of the reliability plot",
        "benchmark",
        SHARE,
        "prompts",
        _designs(_reliability, middle_of_100=(100, 5), last_of_400=(400, 9)),
        True,
    ),
    Row(
        "a single rater, the ceiling",
        "benchmark, quickstart",
        SHARE + ", true values drawn",
        "texts",
        _designs(_one_rater, rater_40=(40, 5)) | _designs(_ceiling_of_items, ceiling_30=(30, 4), ceiling_80=(80, 8)),
        True,
    ),
    Row(
        "mean over tasks",
        "`textenv evaluate`",
        SHARE,
        "prompts of each task",
        _designs(_over_tasks, few=((10, 12, 20), (0.9, 0.5, 0.7)), some=((100, 100), (0.95, 0.3))),
    ),
    Row(
        "mean over suites",
        "benchmark",
        "half-widths' squares add up",
        "suites",
        _designs(_over_suites, few=((20, 30), (0.6, 0.8)), some=((100, 60, 200), (0.7, 0.9, 0.55))),
    ),
    Row(
        "fitted α and β",
        "over-optimisation",
        DRAWN,
        "prompts",
        _designs(_fitted, alpha_20=(20, "alpha"), alpha_80=(80, "alpha"), beta_80=(80, "beta")),
        True,
    ),
    Row(
        "gold after best-of-n", "over-optimisation", DRAWN, "prompts", _designs(_optimised, few=(10,), some=(60,)), True
    ),
    Row(
        "agreement of two raters",
        "dashboard",
        STUDENT,
        "items",
        _designs(_agreement, few=(8, 3, 2.0), some=(60, 2, 1.0), alike=(40, 3, 0.2)),
    ),
    Row(
        "Krippendorff's alpha",
        "dashboard",
        STUDENT,
        "items",
        _designs(_alpha, few=(10, 3, 1.0), some=(60, 3, 1.0), alike=(60, 3, 0.3)),
    ),
    Row(
        "noise ceiling",
        "dashboard",
        STUDENT + ", transformed",
        "prompts",
        _designs(_ceiling, few=(15, 3, 1.0), some=(80, 3, 1.0), alike=(80, 3, 0.3)),
    ),
    Row(
        "rank correlation with length",
        "dashboard",
        "Fisher's z",
        "items",
        _designs(_correlated, few=(10, 0.3), some=(50, 0.3), strong=(50, 0.8)),
    ),
    Row(
        "Bradley-Terry rating",
        "`labels leaderboard`",
        STUDENT + ", sandwich",
        "prompts (and raters)",
        _designs(
            _rating,
            few=(1.0, 4, 60, 1, 0.3),
            some=(1.0, 5, 400, 1, 0.0),
            spread_out=(2.0, 8, 300, 2, 0.3),
            two=(0.3, 2, 30, 1, 0.3),
        ),
        True,
    ),
    Row(
        "Elo rating",
        "`labels leaderboard`",
        DRAWN,
        "prompts",
        _designs(_elo, few=(1.0, 4, 60), some=(1.0, 5, 400)),
        True,
    ),
)


class Coverage(NamedTuple):
    """How often intervals held the truth.

    Attributes:
        held: Share of the intervals.
        none: Share of the samples that had no interval.
        trials: Samples.
    """

    held: float
    none: float
    trials: int


def coverage(sample: Sample, rng: Rng, trials: int) -> Coverage:
    """Draw samples and count.

    Args:
        sample: Draws one.
        rng: For the draws.
        trials: How many.
    """
    held, none = 0, 0
    for _ in range(trials):
        found, truth = sample(rng)
        low, high = (found.low, found.high) if isinstance(found, Interval) else found
        none += math.isnan(low)
        held += low - 1e-9 <= truth <= high + 1e-9
    return Coverage(float(held) / max(trials - none, 1), none / trials, trials)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="samples per design; a fifth where one takes long")
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--designs", action="store_true", help="print every design")
    arguments = parser.parse_args()
    print("| interval | printed by | method | independent | designs | held the truth |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        if arguments.only not in row.name:
            continue
        begun, trials = time.monotonic(), arguments.trials // (5 if row.slow else 1)
        found = {name: coverage(sample, np.random.default_rng(7), trials) for name, sample in row.designs.items()}
        shares = [each.held for each in found.values()]
        print(
            f"| {row.name} | {row.where} | {row.method} | {row.clusters} | {len(shares)} × {trials:,} | "
            f"{min(shares):.3f} to {max(shares):.3f} |",
            flush=True,
        )
        if arguments.designs:
            for name, each in found.items():
                print(f"    {name:<40} {each.held:.3f}   without {each.none:.3f}", flush=True)
            print(f"    {time.monotonic() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
