"""Pair accuracy of reward models on held-out human ratings, beside a human rater and two baselines.

Prints a table: model × smallest difference of the mean ratings, with 95 % bootstrap intervals (items resampled), for
the test domain and for those that the model was not trained on, and the seconds that training and scoring took::

    python benchmarks/reward_model_accuracy.py                    # MiniLM, as the quickstart trains it
    python benchmarks/reward_model_accuracy.py --recipe minilm    # the recipes behind docs/reward-models.md
    python benchmarks/reward_model_accuracy.py --recipe smollm2
    python benchmarks/reward_model_accuracy.py --epochs 2 --train-domains movies amazon tweets nyt
    python benchmarks/reward_model_accuracy.py --data builtin --trunk none   # seconds, no download
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.card import write_card
from reward_models.degenerate import DEFAULT_SHARE, degenerate_ratings
from reward_models.labels import Rating, ratings_from_texts
from reward_models.lexicon import Lexicon
from reward_models.metrics import GAPS, human_rater_accuracy, pair_accuracy
from reward_models.tfidf import TfidfRidge
from reward_models.training.config import RewardModelConfig
from textenv.datasets import DOMAINS, RatedText, builtin_ratings, human_ratings, minilm_path, smollm2_path
from textenv.statistics import Interval

SENTIMENT = "{prompt}{response}\nOverall, the sentiment is"
RECIPES = {
    "minilm": ("minilm", "{prompt}{response}", RewardModelConfig(epochs=3, batch_size=32, learning_rate=1e-4)),
    "smollm2": ("smollm2", SENTIMENT, RewardModelConfig(epochs=2, batch_size=32, learning_rate=5e-5)),
}
NAMES = {"minilm": "MiniLM", "smollm2": "SmolLM2-135M"}


def parse() -> argparse.Namespace:
    """The arguments; those of a recipe where one is asked for, unless they were given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default=None, help="trunk, template and settings")
    parser.add_argument("--data", choices=("human", "builtin"), default="human")
    parser.add_argument("--train-domains", nargs="+", default=["movies"])
    parser.add_argument("--test-domain", default="movies")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--trunk", choices=("minilm", "smollm2", "none"), default=None)
    parser.add_argument("--template", default=None)
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--soft-ratings", action="store_true", help="targets from the raters' spread")
    parser.add_argument("--min-gap", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--degenerate", type=float, default=DEFAULT_SHARE, help="share of made-up degenerate labels")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("--save", type=Path, default=None, help="folder for the trained model")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    arguments = parser.parse_args()
    trunk, template, config = RECIPES.get(arguments.recipe, ("minilm", "{prompt}{response}", RewardModelConfig()))
    arguments.trunk = arguments.trunk or trunk
    arguments.template = arguments.template or template
    given = {"epochs", "batch_size", "learning_rate", "min_gap"}
    changes = {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    arguments.config = replace(config, **changes, seed=arguments.seed, soft_ratings=arguments.soft_ratings)
    return arguments


def main() -> None:
    """Parse the arguments, measure, print."""
    arguments = parse()
    load: Callable[..., list[RatedText]] = human_ratings if arguments.data == "human" else builtin_ratings
    training = load(domains=arguments.train_domains, split="train")
    held_out = load(domains=[arguments.test_domain], split=arguments.split)
    labels, test = ratings_from_texts(training), ratings_from_texts(held_out)
    print(f"{len(labels)} training texts ({', '.join(arguments.train_domains)}), {len(test)} {arguments.split} texts\n")

    rows: dict[str, tuple[dict[float, Interval], float, float]] = {}
    human = human_rater_accuracy([item.ratings for item in held_out], np.random.default_rng(0))
    rows["one human rater"] = (human, 0.0, 0.0)
    rows["VADER lexicon"], _ = measure(lambda: Lexicon(), test)
    texts, means = [label.prompt + label.response for label in labels], [label.score for label in labels]
    rows["TF-IDF + ridge"], _ = measure(lambda: TfidfRidge().fit(texts, means), test)
    if arguments.trunk != "none":
        rows[NAMES[arguments.trunk]], rm = measure(lambda: train_trunk(labels, arguments), test)
        if arguments.data == "human":
            for domain in (name for name in DOMAINS if name not in arguments.train_domains):
                other = ratings_from_texts(load(domains=[domain], split=arguments.split))
                rows[f"  … on {domain}"], _ = measure(lambda: rm, other)
        if arguments.save is not None:
            save(rm, arguments, rows)
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


def train_trunk(labels: list[Rating], arguments: argparse.Namespace) -> Any:
    """A fine-tuned reward model."""
    import torch

    from reward_models.sequence import SequenceRewardModel
    from reward_models.training import train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = minilm_path() if arguments.trunk == "minilm" else smollm2_path()
    rm = SequenceRewardModel.from_trunk(folder, seed=arguments.seed, template=arguments.template)
    extra = degenerate_ratings(labels, np.random.default_rng(arguments.seed), share=arguments.degenerate)
    began = time.perf_counter()

    def progress(step: int, figures: Any) -> None:
        if step % 50 == 0:
            print(f"step {step}, {time.perf_counter() - began:.0f} s, loss {figures['train/loss']:.3f}", flush=True)

    summary = train(rm, [*labels, *extra], arguments.config, callback=progress)
    print(f"{arguments.trunk}: {summary['steps']:.0f} steps, {summary['tokens_per_second']:.0f} tokens/s\n")
    return rm


def save(rm: Any, arguments: argparse.Namespace, rows: dict[str, tuple[dict[float, Interval], float, float]]) -> None:
    """The model's folder with its card."""
    rm.save_pretrained(arguments.save)
    measured = {
        f"{name.strip().removeprefix('… on ')}, gap > {gap:g}": accuracy
        for name, row in rows.items()
        if name == NAMES[arguments.trunk] or name.startswith("  … ")
        for gap, accuracy in row[0].items()
    }
    write_card(
        arguments.save,
        training_data=f"Human ratings of {', '.join(arguments.train_domains)} (Hutto & Gilbert 2014), train split.",
        settings=asdict(arguments.config),
        accuracies=measured,
        evaluation_data=f"the {arguments.split} split of the human ratings",
    )


def measure(build: Callable[[], Any], test: list[Rating]) -> tuple[tuple[dict[float, Interval], float, float], Any]:
    """Accuracy by gap, seconds to build (and train) the model, seconds to score the test texts; and the model."""
    began = time.perf_counter()
    model = build()
    built = time.perf_counter()
    scores = model.score([label.prompt for label in test], [label.response for label in test])
    scored = time.perf_counter()
    found = pair_accuracy(scores, [label.score for label in test], np.random.default_rng(0))
    return (found, built - began, scored - built), model


def print_table(rows: dict[str, tuple[dict[float, Interval], float, float]]) -> None:
    """Models down, gaps across."""
    print(f"{'':20}" + "".join(f"{f'gap > {gap:g}':>22}" for gap in GAPS) + f"{'train s':>9}{'score s':>9}")
    for name, (found, train_seconds, score_seconds) in rows.items():
        cells = "".join(f"{f'{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]':>22}" for x in found.values())
        print(f"{name:20}{cells}{train_seconds:9.1f}{score_seconds:9.1f}")
    pairs = next(iter(rows.values()))[0]
    print(f"{'pairs':20}" + "".join(f"{x.n:>22,}" for x in pairs.values()))


if __name__ == "__main__":
    main()
