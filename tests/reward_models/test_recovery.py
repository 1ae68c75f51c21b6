"""From 5,000 labels of simulated raters each loss recovers the true scores, with calibrated probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reward_models.labels import Label
from reward_models.losses import davidson_logprobs
from reward_models.simulation import LikertScale, Rater, SimulatedRaters, WordGold
from reward_models.simulation.bag_of_words import bag_of_words, bag_of_words_with_spread
from reward_models.training import RewardModelConfig, evaluate, train
from tests.reward_models.tiny import rank_correlation

LABELS = 5000
GOLD = WordGold.random(np.random.default_rng(7), words=40, std=0.6)
CONFIG = RewardModelConfig(
    epochs=5, batch_size=64, learning_rate=0.05, weight_decay=0.0, min_gap=0.0, freeze_embeddings=False, dtype="float32"
)
SCALE = LikertScale(1, 5, unit=1.5)
PROMPT = ""


def texts(count: int, seed: int) -> list[str]:
    return GOLD.sample(np.random.default_rng(seed), count)


def lists(count: int, k: int) -> tuple[list[str], list[list[str]]]:
    flat = texts(count * k, 2)
    return [PROMPT] * count, [flat[start : start + k] for start in range(0, count * k, k)]


def pairs(rater: Rater) -> list[Label]:
    made = SimulatedRaters(GOLD, [rater], seed=3)
    return list(made.compare([PROMPT] * LABELS, texts(LABELS, 4), texts(LABELS, 5)))


def ratings(scale: LikertScale | None) -> list[Label]:
    return list(SimulatedRaters(GOLD, seed=3).rate([PROMPT] * LABELS, texts(LABELS, 4), scale=scale))


PLAIN, TYING = Rater(), Rater(tie_threshold=0.7)
CASES: dict[str, tuple[Callable[[], list[Label]], dict[str, Any]]] = {
    "bradley_terry": (lambda: pairs(PLAIN), {}),
    "rao_kupper": (lambda: pairs(TYING), {"ties": "rao_kupper"}),
    "davidson": (lambda: pairs(TYING), {"ties": "davidson"}),
    "plackett_luce": (lambda: list(SimulatedRaters(GOLD, seed=3).rank(*lists(LABELS, 4))), {}),
    "plackett_luce, top 2": (lambda: list(SimulatedRaters(GOLD, seed=3).rank(*lists(LABELS, 4), top=2)), {}),
    "all pairs": (lambda: list(SimulatedRaters(GOLD, seed=3).rank(*lists(LABELS, 4))), {"rankings_loss": "pairs"}),
    "best_of": (lambda: list(SimulatedRaters(GOLD, seed=3).pick_best(*lists(LABELS, 4))), {}),
    "regression": (lambda: ratings(None), {"ratings_loss": "regression"}),
    "gaussian": (lambda: ratings(None), {"ratings_loss": "gaussian"}),
    "ordinal": (lambda: ratings(SCALE), {"ratings_loss": "ordinal"}),
    "rated pairs": (lambda: ratings(None), {}),
}


def calibration_error(probabilities: NDArray[np.float64], outcomes: NDArray[np.float64], bins: int = 10) -> float:
    """ECE: mean over the pairs of the gap between predicted and seen frequency in their bin."""
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(probabilities[number == b].sum() - outcomes[number == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(outcomes))


def predicted(case: str, differences: NDArray[np.float64], summary: dict[str, float]) -> NDArray[np.float64]:
    """Probability that the first is preferred, a tie counting one half."""
    d = torch.from_numpy(differences)
    if case == "davidson":
        win, _, tie = davidson_logprobs(d, summary["learned_tie"])
        return (win.exp() + tie.exp() / 2).numpy()
    if case == "rao_kupper":
        threshold = math.log1p(math.exp(summary["learned_tie"]))
        win, lose = torch.sigmoid(d - threshold), torch.sigmoid(-d - threshold)
        return (win + (1 - win - lose) / 2).numpy()
    return torch.sigmoid(d).numpy()


def outcomes_of(case: str, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
    """What fresh raters say: 1 for the first, 0 for the second, one half for a tie."""
    prompts = [PROMPT] * len(first)
    if case == "rated pairs":  # what it predicts is the order of two raters' ratings
        one, other = (SimulatedRaters(GOLD, seed=s).rate(prompts, t) for s, t in ((8, first), (9, second)))
        return np.array([float(a.score > b.score) for a, b in zip(one, other, strict=True)])
    rater = TYING if case in ("davidson", "rao_kupper") else PLAIN
    said = SimulatedRaters(GOLD, [rater], seed=8).compare(prompts, first, second)
    return np.array([0.5 if x.tie else float(x.chosen == text) for x, text in zip(said, first, strict=True)])


@pytest.mark.learning
@pytest.mark.parametrize("case", CASES)
def test_loss_recovers_the_truth_with_calibrated_probabilities(case: str) -> None:
    make, changes = CASES[case]
    build = bag_of_words_with_spread if case == "gaussian" else bag_of_words
    rm = build([*GOLD.weights])
    summary = train(rm, make(), replace(CONFIG, **changes))
    fresh = texts(2000, 6)
    found = rm.logits([PROMPT] * 2000, fresh)[:, 0]
    assert rank_correlation(found, GOLD.score([PROMPT] * 2000, fresh)) >= 0.95
    first, second = texts(20_000, 10), texts(20_000, 11)
    scores = [rm.logits([PROMPT] * 20_000, side)[:, 0].astype(float) for side in (first, second)]
    guess = predicted(case, scores[0] - scores[1], summary)
    assert calibration_error(guess, outcomes_of(case, first, second)) < 0.03


@pytest.mark.learning
def test_a_mixture_of_kinds_recovers_the_truth() -> None:
    raters = SimulatedRaters(GOLD, seed=3)
    flat = texts(6000, 4)
    labels: list[Label] = [*raters.rate([PROMPT] * 1000, flat[:1000])]
    labels += raters.compare([PROMPT] * 1000, flat[1000:2000], flat[2000:3000])
    prompts, several = lists(1000, 4)
    labels += raters.rank(prompts, several) + raters.pick_best(prompts, several[::-1])
    rm = bag_of_words([*GOLD.weights])
    held_out = labels[::10]
    config = replace(CONFIG, ratings_loss="regression")
    train(rm, labels, config)
    assert set(evaluate(rm, held_out)) >= {"accuracy_ratings", "accuracy_comparisons", "accuracy_rankings"}
    fresh = texts(2000, 6)
    found = rm.score([PROMPT] * 2000, fresh)
    assert rank_correlation(found, GOLD.score([PROMPT] * 2000, fresh)) >= 0.95


@pytest.mark.learning
def test_cutpoints_of_the_scale_are_recovered() -> None:
    summary = train(bag_of_words([*GOLD.weights]), ratings(SCALE), replace(CONFIG, ratings_loss="ordinal"))
    found = [summary[f"learned_cutpoint_{category}"] for category in range(1, 5)]
    assert found == pytest.approx(SCALE.cutpoints.tolist(), abs=0.25)


@pytest.mark.learning
def test_steps_are_learned_from_their_labels() -> None:
    pieces = [list(part) for part in zip(texts(2000, 4), texts(2000, 5), strict=True)]
    labels = SimulatedRaters(GOLD, [Rater(noise=0.3)], seed=3).label_steps([PROMPT] * 2000, pieces)
    rm = bag_of_words([*GOLD.weights])
    train(rm, labels, CONFIG)
    fresh = texts(2000, 6)
    assert rank_correlation(rm.score([PROMPT] * 2000, fresh), GOLD.score([PROMPT] * 2000, fresh)) >= 0.95
