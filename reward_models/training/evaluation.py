"""How often a reward model agrees with labels of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.labels.conversion import comparisons_from_ranking
from reward_models.labels.records import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from reward_models.metrics import Accuracy, pair_accuracy
from reward_models.training.objectives import texts_of
from textenv.errors import DataError


def evaluate(rm: Any, labels: Sequence[Label]) -> dict[str, float]:
    """Accuracy on labels; ties of scores count one half.

    Of ratings it is the share of pairs in the right order, of comparisons the share won by the chosen one (tied labels
    left out), of rankings the share of their decided pairs, of best-of-K labels the share whose best one is found, of
    steps the share of scores with the right sign.

    Args:
        rm: A reward model; its `score_raw` if it has one, else its `score`.
        labels: Of any kinds.

    Returns:
        ``accuracy`` (the mean over labels if the kinds are mixed, and then each kind's own as ``accuracy_ratings``
        and so on), and if there are ratings ``accuracy_gap_0_5``.

    Raises:
        DataError: If there are no labels, or nothing in them can be right or wrong.
    """
    found = measure(rm, labels, np.random.default_rng(0), resamples=0)
    return {name: accuracy.value for name, accuracy in found.items()}


def measure(
    rm: Any, labels: Sequence[Label], rng: np.random.Generator, *, resamples: int = 1000
) -> dict[str, Accuracy]:
    """What `evaluate` says, with bootstrap intervals (labels are resampled; ratings as in `pair_accuracy`).

    Args:
        rm: As in `evaluate`.
        labels: Of any kinds.
        rng: For the bootstrap.
        resamples: How many; 0 gives intervals of NaN.

    Returns:
        Name → accuracy; `pairs` counts labels, but for ratings their pairs.

    Raises:
        DataError: As in `evaluate`.
    """
    texts = list(dict.fromkeys(text for label in labels for text in texts_of(label)))
    if not texts:
        raise DataError("there are no labels to evaluate on.")
    judge = rm.score_raw if hasattr(rm, "score_raw") else rm.score
    scores = judge([prompt for prompt, _ in texts], [response for _, response in texts])
    by_text = dict(zip(texts, np.asarray(scores, dtype=np.float64).tolist(), strict=True))
    ratings = [label for label in labels if isinstance(label, Rating)]
    judged = {
        "comparisons": [_compared(x, by_text) for x in labels if isinstance(x, Comparison) and not x.tie],
        "rankings": [_ranked(x, by_text) for x in labels if isinstance(x, Ranking) and len(set(x.ranks)) > 1],
        "best_of": [_best(x, by_text) for x in labels if isinstance(x, BestOf)],
        "steps": [_steps(x, by_text) for x in labels if isinstance(x, StepLabels)],
    }
    found = {kind: _resampled(right, rng, resamples) for kind, right in judged.items() if right}
    counts = {kind: len(right) for kind, right in judged.items() if right}
    by_gap: dict[float, Accuracy] = {}
    if ratings:
        mine = [by_text[label.prompt, label.response] for label in ratings]
        by_gap = pair_accuracy(mine, [x.score for x in ratings], rng, gaps=(0.0, 0.5), resamples=resamples)
        found["ratings"], counts["ratings"] = by_gap[0.0], len(ratings)
    if not found:
        raise DataError("the labels to evaluate on are all ties: no order can be right.")
    result = {"accuracy": next(iter(found.values()))}
    if len(found) > 1:
        total = sum(counts.values())
        overall = sum(found[kind].value * counts[kind] for kind in found) / total
        result["accuracy"] = Accuracy(overall, float("nan"), float("nan"), total)
        result |= {f"accuracy_{kind}": accuracy for kind, accuracy in found.items()}
    return result | ({"accuracy_gap_0_5": by_gap[0.5]} if by_gap else {})


def _resampled(right: list[float], rng: np.random.Generator, resamples: int) -> Accuracy:
    """Mean of what was right, with a 95 % percentile interval."""
    values = np.array(right)
    if not resamples:
        return Accuracy(float(values.mean()), float("nan"), float("nan"), len(values))
    drawn = [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Accuracy(float(values.mean()), float(low), float(high), len(values))


Scores = dict[tuple[str, str], float]


def _compared(label: Comparison, scores: Scores) -> float:
    return _order(scores[label.prompt, label.chosen], scores[label.prompt, label.rejected])


def _ranked(label: Ranking, scores: Scores) -> float:
    return float(np.mean([_compared(pair, scores) for pair in comparisons_from_ranking(label, ties=False)]))


def _best(label: BestOf, scores: Scores) -> float:
    mine: NDArray[np.float64] = np.array([scores[label.prompt, response] for response in label.responses])
    highest = mine == mine.max()
    return float(highest[label.best] / highest.sum())


def _steps(label: StepLabels, scores: Scores) -> float:
    mine = [scores[text] for text in texts_of(label)]
    right = [
        _order(s, 0.0) if y > 0.5 else _order(0.0, s) for s, y in zip(mine, label.labels, strict=True) if y is not None
    ]
    return float(np.mean(right))


def _order(better: float, worse: float) -> float:
    return 0.5 * (np.sign(better - worse) + 1)
