"""Pair accuracy of reward models on the held-out movie ratings, beside a human rater and two baselines.

Prints a table: model × smallest difference of the mean ratings, with 95 % bootstrap intervals (items resampled) and
the seconds that training and scoring took::

    python benchmarks/reward_model_accuracy.py                 # MiniLM, as the quickstart trains it
    python benchmarks/reward_model_accuracy.py --epochs 2 --train-domains movies amazon tweets nyt
    python benchmarks/reward_model_accuracy.py --data builtin --skip-minilm   # seconds, no download
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.degenerate import DEFAULT_SHARE, degenerate_ratings
from reward_models.labels import Rating, ratings_from_texts
from reward_models.lexicon import Lexicon
from reward_models.metrics import GAPS, Accuracy, human_rater_accuracy, pair_accuracy
from reward_models.tfidf import TfidfRidge
from textenv.datasets import RatedText, builtin_ratings, human_ratings, minilm_path


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("human", "builtin"), default="human")
    parser.add_argument("--train-domains", nargs="+", default=["movies"])
    parser.add_argument("--test-domain", default="movies")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--degenerate", type=float, default=DEFAULT_SHARE, help="share of made-up degenerate labels")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("--skip-minilm", action="store_true", help="only the human rater and the two baselines")
    parser.add_argument("--save", type=Path, default=None, help="folder for the trained model")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    arguments = parser.parse_args()

    load: Callable[..., list[RatedText]] = human_ratings if arguments.data == "human" else builtin_ratings
    training = load(domains=arguments.train_domains, split="train")
    held_out = load(domains=[arguments.test_domain], split=arguments.split)
    labels, test = ratings_from_texts(training), ratings_from_texts(held_out)
    print(f"{len(labels)} training texts ({', '.join(arguments.train_domains)}), {len(test)} {arguments.split} texts\n")

    rows: dict[str, tuple[dict[float, Accuracy], float, float]] = {}
    human = human_rater_accuracy([item.ratings for item in held_out], np.random.default_rng(0))
    rows["one human rater"] = (human, 0.0, 0.0)
    rows["VADER lexicon"] = measure(lambda: Lexicon(), test)
    texts, means = [label.prompt + label.response for label in labels], [label.score for label in labels]
    rows["TF-IDF + ridge"] = measure(lambda: TfidfRidge().fit(texts, means), test)
    if not arguments.skip_minilm:
        rows["MiniLM, fine-tuned"] = measure(lambda: train_minilm(labels, arguments), test)
    print_table(rows)
    if arguments.json is not None:
        record = {
            name: {
                "accuracy": {str(gap): found._asdict() for gap, found in row[0].items()},
                "train_seconds": row[1],
                "score_seconds": row[2],
            }
            for name, row in rows.items()
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def train_minilm(labels: list[Rating], arguments: argparse.Namespace) -> Any:
    """A fine-tuned MiniLM reward model."""
    import torch

    from reward_models.sequence import SequenceRewardModel
    from reward_models.training import RewardModelConfig, train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rm = SequenceRewardModel.from_trunk(minilm_path(), seed=arguments.seed)
    rate = arguments.learning_rate or RewardModelConfig.learning_rate
    config = RewardModelConfig(
        epochs=arguments.epochs, batch_size=arguments.batch_size, learning_rate=rate, seed=arguments.seed
    )
    extra = degenerate_ratings(labels, np.random.default_rng(arguments.seed), share=arguments.degenerate)
    summary = train(rm, [*labels, *extra], config)
    print(f"MiniLM: {summary['steps']:.0f} steps, {summary['tokens_per_second']:.0f} tokens/s\n")
    if arguments.save is not None:
        rm.save_pretrained(arguments.save)
    return rm


def measure(build: Callable[[], Any], test: list[Rating]) -> tuple[dict[float, Accuracy], float, float]:
    """Accuracy by gap, seconds to build (and train) the model, seconds to score the test texts."""
    began = time.perf_counter()
    model = build()
    built = time.perf_counter()
    scores = model.score([label.prompt for label in test], [label.response for label in test])
    scored = time.perf_counter()
    found = pair_accuracy(scores, [label.score for label in test], np.random.default_rng(0))
    return found, built - began, scored - built


def print_table(rows: dict[str, tuple[dict[float, Accuracy], float, float]]) -> None:
    """Models down, gaps across."""
    print(f"{'':20}" + "".join(f"{f'gap > {gap:g}':>22}" for gap in GAPS) + f"{'train s':>9}{'score s':>9}")
    for name, (found, train_seconds, score_seconds) in rows.items():
        cells = "".join(f"{f'{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]':>22}" for x in found.values())
        print(f"{name:20}{cells}{train_seconds:9.1f}{score_seconds:9.1f}")
    pairs = next(iter(rows.values()))[0]
    print(f"{'pairs':20}" + "".join(f"{x.pairs:>22,}" for x in pairs.values()))


if __name__ == "__main__":
    main()
