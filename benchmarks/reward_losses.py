"""K-wise, pairwise and rating losses on equal labels, where the truth is known: which loss learns most from what.

Simulated raters (logistic noise of the gold's own size) look at the same K responses per prompt and give a ranking, a
choice of the best, or ratings; a linear reward model learns the gold's words from them. Printed per loss, as mean ±
standard deviation over seeds: Spearman's correlation with the truth, accuracy on pairs of fresh responses, and the
calibration error of the predicted preferences::

    python benchmarks/reward_losses.py                       # a minute
    python benchmarks/reward_losses.py --k 9 --prompts 500   # InstructGPT's largest K

``equal prompts`` is what one round of labelling gives: a ranking of K holds C(K, 2) pairs. ``equal pairs`` gives
single comparisons as many decided pairs as the rankings hold.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from reward_models.labels import Label, comparisons_from_ranking
from reward_models.simulation import SimulatedRaters, WordGold
from reward_models.simulation.bag_of_words import bag_of_words
from reward_models.training import RewardModelConfig, train

FRESH = 4000


class Found(NamedTuple):
    """Figures of one run."""

    spearman: float
    accuracy: float
    ece: float


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=4, help="responses per prompt")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--words", type=int, default=200, help="words whose worth has to be learned")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    arguments = parser.parse_args()
    rows: dict[str, list[Found]] = {}
    for seed in range(arguments.seeds):
        for name, found in one_seed(arguments, seed).items():
            rows.setdefault(name, []).append(found)
    print(f"{arguments.prompts} prompts, K = {arguments.k}, {arguments.words} words, {arguments.seeds} seeds\n")
    print(f"{'labels and loss':52}{'Spearman':>16}{'accuracy':>16}{'ECE':>16}")
    for name, several in rows.items():
        columns = [f"{np.mean(column):.3f} ± {np.std(column):.3f}" for column in zip(*several, strict=True)]
        print(f"{name:52}" + "".join(f"{cell:>16}" for cell in columns))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({k: [x._asdict() for x in v] for k, v in rows.items()}, indent=2) + "\n")


def one_seed(arguments: argparse.Namespace, seed: int) -> dict[str, Found]:
    """All the losses on the labels of one seed."""
    rng = np.random.default_rng(seed)
    gold = WordGold.random(rng, words=arguments.words, std=0.5)
    prompts, k = [f"prompt {i}" for i in range(arguments.prompts)], arguments.k
    flat = gold.sample(rng, k * len(prompts), min_words=4, max_words=10)
    lists = [flat[start : start + k] for start in range(0, len(flat), k)]
    raters = SimulatedRaters(gold, seed=seed)
    rankings = raters.rank(prompts, lists)
    top = raters.rank(prompts, lists, top=max(1, k // 2))
    best = raters.pick_best(prompts, lists)
    pairs = [pair for ranking in rankings for pair in comparisons_from_ranking(ranking)]
    repeated = [p for p in prompts for _ in range(k)]
    ratings = raters.rate(repeated, flat)
    single = raters.compare(prompts, [x[0] for x in lists], [x[1] for x in lists])
    count = len(prompts) * k * (k - 1) // 2
    one, other = (gold.sample(rng, count, min_words=4, max_words=10) for _ in range(2))
    independent = raters.compare([f"pair {i}" for i in range(count)], one, other)
    cases: dict[str, tuple[list[Label], dict[str, Any]]] = {
        f"{len(rankings)} rankings, Plackett-Luce": (list(rankings), {}),
        f"{len(rankings)} rankings, all pairs / C(K, 2)": (list(rankings), {"rankings_loss": "pairs"}),
        f"{len(pairs)} pairs of the rankings, shuffled, Bradley-Terry": (list(pairs), {"batch": k * (k - 1) // 2}),
        f"{len(top)} top-{max(1, k // 2)} rankings, Plackett-Luce": (list(top), {}),
        f"{len(best)} choices of the best, softmax": (list(best), {}),
        f"{len(single)} comparisons of two (equal prompts)": (list(single), {}),
        f"{len(independent)} comparisons of two (equal pairs)": (list(independent), {"batch": k * (k - 1) // 2}),
        f"{len(ratings)} ratings, regression": (list(ratings), {"ratings_loss": "regression", "batch": k}),
        f"{len(ratings)} ratings, all pairs of a batch": (list(ratings), {"batch": k}),
    }
    vocabulary = list(gold.weights)
    return {name: measure(gold, vocabulary, labels, seed, changes) for name, (labels, changes) in cases.items()}


def measure(gold: WordGold, words: list[str], labels: list[Label], seed: int, changes: dict[str, Any]) -> Found:
    """Train on the labels, compare with the truth. The number of steps is the same for all."""
    batch = 16 * int(changes.pop("batch", 1))
    config = RewardModelConfig(
        epochs=6, batch_size=batch, learning_rate=0.05, min_gap=0.0, freeze_embeddings=False, dtype="float32", seed=seed
    )
    rm = bag_of_words(words)
    train(rm, labels, replace(config, weight_decay=0.0, **changes))
    rng = np.random.default_rng(10_000 + seed)
    one, other = (gold.sample(rng, FRESH, min_words=4, max_words=10) for _ in range(2))
    prompts = [""] * FRESH
    scores = [rm.score(prompts, side).astype(float) for side in (one, other)]
    truth = [gold.score(prompts, side).astype(float) for side in (one, other)]
    right = np.sign(scores[0] - scores[1]) == np.sign(truth[0] - truth[1])
    predicted, exact = (1 / (1 + np.exp(b - a)) for a, b in (scores, truth))
    edges = np.minimum((predicted * 10).astype(int), 9)
    gaps = [abs(float(np.sum(predicted[edges == b] - exact[edges == b]))) for b in range(10)]
    correlation: Any = spearmanr(scores[0], truth[0])
    return Found(float(correlation.statistic), float(right.mean()), sum(gaps) / FRESH)


if __name__ == "__main__":
    main()
