"""Whether one model is better than another: paired tests, and how far models agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.measures.accuracy import AccuracyResult, correctness
from textenv.statistics import Interval, two_sided_p


class Comparison(NamedTuple):
    """Two models on the same pairs.

    Attributes:
        first: Name of one.
        second: Name of the other.
        difference: Accuracy of the first minus that of the second.
        p: Two-sided, paired bootstrap over prompts.
        p_holm: The same, corrected for all comparisons of this suite.
        only_first: Independent pairs that only the first orders right (McNemar's discordant pairs).
        only_second: Those that only the second orders right.
        p_mcnemar: Exact McNemar test on them.
        independent_pairs: How many independent pairs that test had.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_holm: float
    only_first: int
    only_second: int
    p_mcnemar: float
    independent_pairs: int


def compare_models(
    scores: Mapping[str, NDArray[np.float64]],
    accuracies: Mapping[str, AccuracyResult],
    suite: SuiteData,
    rng: np.random.Generator,
) -> list[Comparison]:
    """Every two models against each other, in the order of the names given.

    Args:
        scores: Name → scores of the items.
        accuracies: Name → accuracies, from one bootstrap.
        suite: The suite.
        rng: Chooses the independent pairs of McNemar's test.
    """
    chosen = independent_pairs(suite, rng)
    right = {name: correctness(found, suite.pairs)[chosen] for name, found in scores.items()}
    found = []
    for a, b in combinations(scores, 2):
        ours, theirs = accuracies[a], accuracies[b]
        gap = ours.resampled - theirs.resampled
        only_a = int(((right[a] == 1) & (right[b] == 0)).sum())
        only_b = int(((right[a] == 0) & (right[b] == 1)).sum())
        difference, p = gap.interval((-1, 1)), two_sided_p(gap.draws)
        found.append(Comparison(a, b, difference, p, 1.0, only_a, only_b, mcnemar(only_a, only_b), len(chosen)))
    corrected = holm([comparison.p for comparison in found])
    return [comparison._replace(p_holm=p) for comparison, p in zip(found, corrected, strict=True)]


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: under equality each discordant pair is a coin toss.

    Source: McNemar 1947, Psychometrika 12(2), with the binomial distribution in place of the normal one.
    """
    total = only_first + only_second
    return 1.0 if total == 0 else float(stats.binomtest(only_first, total, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several tests; NaN stays NaN.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected, largest = values.copy(), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]


def independent_pairs(suite: SuiteData, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of pairs of which no two share a prompt: taken in random order while both prompts are still free."""
    taken = np.zeros(int(suite.clusters.max()) + 1, dtype=bool)
    a, b = suite.clusters[suite.pairs.better], suite.clusters[suite.pairs.worse]
    order = rng.permutation(len(suite.pairs))
    chosen = []
    for index in order[: 50 * len(taken)]:  # in a suite of all pairs few are free after that
        if not (taken[a[index]] or taken[b[index]]):
            taken[a[index]] = taken[b[index]] = True
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def agreement(scores: Mapping[str, NDArray[np.float64]], suite: SuiteData) -> dict[str, dict[str, float]]:
    """Share of the suite's pairs that two models order alike, for every two models: 1 on the diagonal.

    Equal scores count one half, but a pair on which both models tie counts as alike.
    """
    orders = {name: 2 * correctness(found, suite.pairs) - 1 for name, found in scores.items()}
    table: dict[str, dict[str, float]] = {}
    for a, ours in orders.items():
        table[a] = {}
        for b, theirs in orders.items():
            alike = np.where((ours == 0) & (theirs == 0), 1.0, 0.5 * (ours * theirs + 1))
            table[a][b] = float(alike.mean()) if len(alike) else float("nan")
    return table
