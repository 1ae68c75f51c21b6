"""What is exactly known of simulated raters: the probability of each answer, and how well anyone could predict it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr

from reward_models.simulation.raters import Rater, SimulatedRaters
from textenv.errors import ShapeError


def choice_probabilities(
    simulated: SimulatedRaters, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> NDArray[np.float64]:
    """Probability that a rater, drawn evenly, says first, tie, second; exact, shape ``(n, 3)``."""
    total = np.zeros((len(prompts), 3))
    for rater in simulated.raters:
        people = [rater] * len(prompts)
        shown_first = simulated.utilities(prompts, first, people, first_shown=True)
        total += rater_probabilities(rater, shown_first - simulated.utilities(prompts, second, people))
    return total / len(simulated.raters)


def rater_probabilities(rater: Rater, differences: ArrayLike) -> NDArray[np.float64]:
    """Probability that this rater says first, tie, second for differences of utility; shape ``(n, 3)``."""
    difference = np.asarray(differences, dtype=np.float64)
    if difference.ndim != 1:
        raise ShapeError(f"`differences` must be (n,), got {difference.shape}.")
    if rater.noise == 0:
        first = (difference > rater.tie_threshold).astype(float)
        second = (difference < -rater.tie_threshold).astype(float)
        # Without noise and threshold an exact draw goes to the first one, as `SimulatedRaters.compare` has it.
        first += (difference == 0) * (rater.tie_threshold == 0)
    else:
        above: Any = expit if rater.noise_kind == "logistic" else ndtr
        first = above((difference - rater.tie_threshold) / rater.noise)
        second = above((-difference - rater.tie_threshold) / rater.noise)
    answers = np.stack([first, 1 - first - second, second], axis=1)
    return (1 - rater.lapse) * answers + rater.lapse * np.array([0.5, 0.0, 0.5])


class Ceilings(NamedTuple):
    """How often predictions of pairs can be right, ties counting one half.

    Attributes:
        best: Of the best possible predictor, which knows each answer's probability.
        gold: Of the gold's own order.
        agreement: Of another rater: the probability that two raters drawn evenly say the same.
    """

    best: float
    gold: float
    agreement: float


def ceilings(
    simulated: SimulatedRaters, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> Ceilings:
    """Exact ceilings of pair accuracy against one rater's answers on these pairs.

    A tie between the responses counts one half whatever is predicted, as in `reward_models.metrics`.
    """
    answers = choice_probabilities(simulated, prompts, first, second)
    for_first = answers[:, 0] + 0.5 * answers[:, 1]
    nobody = [Rater("gold")] * len(prompts)
    plain = SimulatedRaters(simulated.gold, nobody[:1])
    order = np.sign(plain.utilities(prompts, first, nobody) - plain.utilities(prompts, second, nobody))
    by_gold = np.where(order > 0, for_first, np.where(order < 0, 1 - for_first, 0.5))
    same = (answers**2).sum(axis=1)
    return Ceilings(float(np.maximum(for_first, 1 - for_first).mean()), float(by_gold.mean()), float(same.mean()))
