"""How many labels does one need? Reward models trained on growing numbers of simulated labels, against the truth.

Give a gold that resembles what people will judge by, raters as noisy as yours (the dashboard's agreement tells), and
the reward model that you would train; the curve says what each doubling of the labels buys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from reward_models.labels.kinds import Comparison
from reward_models.simulation.golds import gold_scores
from reward_models.simulation.raters import Rater, SimulatedRaters
from textenv.errors import ConfigError

Fit = Callable[[list[Comparison], int], Any]
"""Trains a reward model on comparisons; the second argument is a seed."""


class LabelPlan(NamedTuple):
    """What so many labels bring.

    Attributes:
        labels: How many.
        accuracy: Share of held-out pairs that the reward model orders as the gold does, mean over the seeds.
        std: Its standard deviation over the seeds.
    """

    labels: int
    accuracy: float
    std: float


def plan_labels(
    fit: Fit,
    gold: Any,
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    raters: Sequence[Rater],
    *,
    counts: Sequence[int] = (50, 100, 200, 400, 800),
    repeats: int = 1,
    held_out: float = 0.25,
    seeds: int = 3,
) -> list[LabelPlan]:
    """Accuracy of a reward model against the number of labels it was trained on.

    Pairs of responses to one prompt are drawn and labelled by raters drawn evenly; the smaller numbers are beginnings
    of the larger ones, so that a curve is one person's way.

    Args:
        fit: Trains the reward model.
        gold: The truth: a reward model or a function of prompts and responses.
        prompts: Prompts, n.
        responses: At least two responses to each.
        raters: The people.
        counts: Numbers of labels, all repeats counted.
        repeats: How many people label each pair: fewer pairs for the same number of labels.
        held_out: Share of the prompts that only measure.
        seeds: Repetitions with other labels.

    Returns:
        One entry for each count, in rising order.

    Raises:
        ConfigError: If an argument is out of its range, or the held-out prompts hold no pair of different worth.
    """
    if min(counts, default=0) < 1 or repeats < 1 or seeds < 1 or not 0 < held_out < 1:
        raise ConfigError(
            f"need `counts`, `repeats` and `seeds` ≥ 1 and 0 < `held_out` < 1, got {list(counts)}, {repeats}, {seeds} "
            f"and {held_out}."
        )
    counts, border = sorted(set(counts)), max(1, round(len(prompts) * (1 - held_out)))
    found = np.zeros((seeds, len(counts)))
    test = _pairs(prompts[border:], responses[border:])
    worth = [gold_scores(gold, test[0], side) for side in test[1:]]
    if not (worth[0] != worth[1]).any():
        raise ConfigError("the held-out prompts hold no two responses of different worth; give more prompts.")
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        labels = _labels(rng, gold, prompts[:border], responses[:border], raters, max(counts), repeats)
        for place, count in enumerate(counts):
            model = fit(labels[:count], seed)
            scores = [gold_scores(model, test[0], side) for side in test[1:]]
            found[seed, place] = _agreement(scores[0] - scores[1], worth[0] - worth[1])
    spread = found.std(0, ddof=1) if seeds > 1 else np.zeros(len(counts))
    return [LabelPlan(n, float(a), float(s)) for n, a, s in zip(counts, found.mean(0), spread, strict=True)]


def _pairs(prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> tuple[list[str], list[str], list[str]]:
    """All pairs of different responses to one prompt."""
    asked: list[str] = []
    first: list[str] = []
    second: list[str] = []
    for prompt, texts in zip(prompts, responses, strict=True):
        for i, text in enumerate(texts):
            for other in texts[:i]:
                if other != text:
                    asked.append(prompt)
                    first.append(other)
                    second.append(text)
    return asked, first, second


def _labels(
    rng: np.random.Generator,
    gold: Any,
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    raters: Sequence[Rater],
    count: int,
    repeats: int,
) -> list[Comparison]:
    """So many labels of randomly drawn pairs, `repeats` people on each."""
    asked, first, second = _pairs(prompts, responses)
    if not asked:
        raise ConfigError("the prompts hold no two different responses to label.")
    drawn = rng.integers(len(asked), size=-(-count // repeats)).repeat(repeats)[:count]
    swap = rng.random(len(drawn)) < 0.5
    simulated = SimulatedRaters(gold, raters, seed=int(rng.integers(2**31)))
    sides = [(first[i], second[i]) if flip else (second[i], first[i]) for i, flip in zip(drawn, swap, strict=True)]
    return simulated.compare([asked[i] for i in drawn], [a for a, _ in sides], [b for _, b in sides])


def _agreement(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of pairs of different worth in the right order; equal predictions count half."""
    differ = true != 0
    right = (np.sign(predicted) == np.sign(true)) + 0.5 * (predicted == 0)
    return float(right[differ].mean())
