"""How often a reward model agrees with labels of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.labels.conversion import comparisons_from_ranking
from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from reward_models.metrics import resampled_accuracy
from reward_models.training.objectives import texts_of
from textenv.errors import DataError
from textenv.statistics import ClusterBootstrap, Interval, Resampled, cluster_numbers


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
) -> dict[str, Interval]:
    """What `evaluate` says, with bootstrap intervals: prompts are resampled, or labels where all are on one prompt.

    Where labels say who gave them, what one person says belongs together as well (of ratings, whose order takes two,
    prompts alone do).

    Args:
        rm: As in `evaluate`.
        labels: Of any kinds.
        rng: For the bootstrap.
        resamples: How many; 0 gives intervals of NaN.

    Returns:
        Name → accuracy; `n` counts labels, but for ratings their pairs.

    Raises:
        DataError: As in `evaluate`.
    """
    texts = list(dict.fromkeys(text for label in labels for text in texts_of(label)))
    if not texts:
        raise DataError("there are no labels to evaluate on.")
    judge = rm.score_raw if hasattr(rm, "score_raw") else rm.score
    scores = judge([prompt for prompt, _ in texts], [response for _, response in texts])
    by_text = dict(zip(texts, np.asarray(scores, dtype=np.float64).tolist(), strict=True))
    ratings = np.array([isinstance(label, Rating) for label in labels])
    right = np.array([_right(label, by_text) for label in labels])
    prompts = cluster_numbers(np.array([label.prompt for label in labels], object), len(labels))
    bootstrap = ClusterBootstrap(prompts, rng, resamples=resamples)
    # Whose rater is not known stands for a rater of its own.
    raters = np.array([f"by {label.rater}" if label.rater else f"{i}" for i, label in enumerate(labels)])
    named = any(label.rater for label in labels)
    found: dict[str, Resampled] = {}
    for kind, name in _KINDS.items():
        kept = np.isfinite(right) & [isinstance(label, kind) for label in labels]
        if kept.any():
            found[name] = bootstrap.item_mean(right, kept)
            if named:
                found[name] = found[name].among_raters(right[kept], prompts[kept], raters[kept])
    counts = {kind: accuracy.n for kind, accuracy in found.items()}
    by_gap: dict[float, Resampled] = {}
    if ratings.any():
        rated = [label for label in labels if isinstance(label, Rating)]
        mine = [by_text[label.prompt, label.response] for label in rated]
        by_gap = resampled_accuracy(mine, [x.score for x in rated], bootstrap.of_items(ratings), (0.0, 0.5))
        found["ratings"], counts["ratings"] = by_gap[0.0], len(rated)
    if not found:
        raise DataError("the labels to evaluate on are all ties: no order can be right.")
    overall = Resampled.mean(list(found.values()), list(counts.values()))
    result = {"accuracy": overall._replace(n=sum(counts.values())) if len(found) > 1 else overall}
    if len(found) > 1:
        result |= {f"accuracy_{kind}": accuracy for kind, accuracy in found.items()}
    result |= {"accuracy_gap_0_5": by_gap[0.5]} if by_gap else {}
    return {name: accuracy.interval((0, 1)) for name, accuracy in result.items()}


_KINDS: dict[type, str] = {Comparison: "comparisons", Ranking: "rankings", BestOf: "best_of", StepLabels: "steps"}
"""Labels that are right or wrong by themselves; a rating is so only beside another."""


Scores = dict[tuple[str, str], float]


def _right(label: Label, scores: Scores) -> float:
    """How far a label's order is that of the scores, 0 to 1; NaN where it has none."""
    match label:
        case Comparison() if not label.tie:
            return _compared(label, scores)
        case Ranking() if len(set(label.ranks)) > 1:
            return _ranked(label, scores)
        case BestOf():
            return _best(label, scores)
        case StepLabels():
            return _steps(label, scores)
        case _:
            return float("nan")


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
