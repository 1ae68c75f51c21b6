"""Does asking what an ensemble disagrees about need fewer labels than asking at random?

    python benchmarks/active_selection.py                        # simulated people, five seeds, a table
    python benchmarks/active_selection.py --kind rank --words even

Simulated people label items of a feedback store, a batch at a time. After each batch an ensemble is trained on
resampled labels and the rest of the queue is put in order: at random, or by the ensemble's disagreement. What is
measured is one more reward model, trained on all labels so far and the same in both cases: the share of held-out pairs
of responses that it orders as the hidden truth does. Both arms see the same items, people and held-out pairs.

The truth is a sum of words' worth; with ``--words zipf`` some words are common and most are rare, as in real texts,
with ``even`` all are equally common. Reward models are linear in words, so nothing but the labels keeps them from the
truth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models import RewardModelConfig, SequenceRewardModel, train
from reward_models.active import EnsembleDisagreement
from reward_models.labels import Label, labels_from_store
from reward_models.simulation import Rater, SimulatedPerson, WordGold
from reward_models.simulation.bag_of_words import bag_of_words
from textenv.feedback.store import Answer, FeedbackStore, Item
from textenv.feedback.store import Label as StoredLabel


class World(NamedTuple):
    """A hidden truth, items to label, and pairs to measure on.

    Attributes:
        gold: The truth.
        items: What may be asked.
        left: Held-out responses,
        right: and what each is compared with.
    """

    gold: WordGold
    items: list[Item]
    left: list[str]
    right: list[str]


def make_world(arguments: argparse.Namespace, seed: int) -> World:
    """Words, texts of them, and items."""
    rng = np.random.default_rng(seed)
    gold = WordGold.random(rng, words=arguments.vocabulary, std=1.0)
    words = np.array(list(gold.weights))
    share = 1 / np.arange(1, len(words) + 1) if arguments.words == "zipf" else np.ones(len(words))
    share /= share.sum()

    def texts(count: int) -> list[str]:
        lengths = rng.integers(4, 9, size=count)
        return [" " + " ".join(rng.choice(words, size=length, p=share)) for length in lengths]

    size = {"compare": 2, "rank": 4, "rate": 1}[arguments.kind]
    items = [
        Item(arguments.kind, f"prompt {number}", tuple(map(Answer, dict.fromkeys(texts(size)))))
        for number in range(arguments.items)
    ]
    return World(gold, items, texts(2000), texts(2000))


def fit(labels: Sequence[Label], world: World, seed: int, *, start: float = 0.0) -> SequenceRewardModel:
    """A linear reward model; ``start`` spreads its first weights, so that members differ where no label tells."""
    rm = bag_of_words(world.gold.weights)
    if start:
        generator = torch.Generator().manual_seed(seed)
        torch.nn.init.normal_(rm.model.words.weight, std=start, generator=generator)
    steps = 150
    config = RewardModelConfig(
        epochs=steps * 32 / len(labels),
        batch_size=min(32, len(labels)),
        learning_rate=0.05,
        weight_decay=0.05,
        freeze_embeddings=False,
        seed=seed,
    )
    train(rm, list(labels), config)
    return rm


def accuracy(rm: SequenceRewardModel, world: World) -> float:
    """Share of held-out pairs in the order of the truth."""
    prompts = [""] * len(world.left)
    predicted = rm.score(prompts, world.left) - rm.score(prompts, world.right)
    true = world.gold.score(prompts, world.left) - world.gold.score(prompts, world.right)
    return float((np.sign(predicted) == np.sign(true))[true != 0].mean())


def label(store: FeedbackStore, person: SimulatedPerson, count: int) -> None:
    """Let a person label what the queue gives them."""
    for _ in range(count):
        given = store.next_assignment(person.rater.name)
        assert given is not None
        item = given.item
        texts = [item.answers[number].text for number in given.order]
        shown = {"kind": item.kind, "prompt": item.prompt, "answers": texts, "order": given.order}
        payload = person.judge(shown)
        assert payload is not None
        store.save_label(StoredLabel(f"{person.rater.name} {item.id}", item.id, person.rater.name, payload))


def curve(world: World, arguments: argparse.Namespace, seed: int, how: str) -> list[float]:
    """Accuracy after each batch of labels."""
    found = []
    person = SimulatedPerson(Rater("person", noise=arguments.noise), world.gold, seed=seed)
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder) / "people.db", gold_share=0.0) as store:
        store.add_items(world.items)
        for number in range(arguments.batches):
            label(store, person, arguments.batch)
            labels = list(labels_from_store(store))
            found.append(accuracy(fit(labels, world, seed), world))
            if how != "random" and number + 1 < arguments.batches:
                store.reprioritise(selector(labels, world, arguments, seed, how))
    return found


def selector(
    labels: Sequence[Label], world: World, arguments: argparse.Namespace, seed: int, how: Any
) -> EnsembleDisagreement:
    """An ensemble on resampled labels."""
    rng = np.random.default_rng(seed)
    members = []
    for member in range(arguments.members):
        drawn = rng.integers(len(labels), size=len(labels))
        members.append(fit([labels[place] for place in drawn], world, 1000 * seed + member, start=arguments.start))
    return EnsembleDisagreement(members, measure=how, explore=arguments.explore, most=arguments.items)


def labels_needed(curves: NDArray[np.float64], target: float, batch: int) -> float:
    """Labels at which the mean curve first reaches the target, between two measurements by a straight line."""
    mean = curves.mean(axis=0)
    above = np.flatnonzero(mean >= target)
    if not len(above):
        return float("nan")
    place = int(above[0])
    if place == 0:
        return float(batch)
    share = (target - mean[place - 1]) / (mean[place] - mean[place - 1])
    return batch * (place + float(share))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("compare", "rank", "rate"), default="compare")
    parser.add_argument("--words", choices=("zipf", "even"), default="zipf")
    parser.add_argument("--vocabulary", type=int, default=150)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=50, help="labels between two trainings")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--noise", type=float, default=1.0, help="of the people, in units of a word's worth")
    parser.add_argument("--start", type=float, default=0.5, help="spread of the members' first weights")
    parser.add_argument("--explore", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--measures", nargs="+", default=["information", "std"], choices=("information", "std"))
    arguments = parser.parse_args()
    begun = time.monotonic()
    found: dict[str, NDArray[np.float64]] = {}
    for how in ("random", *arguments.measures):
        rows = [curve(make_world(arguments, seed), arguments, seed, how) for seed in range(arguments.seeds)]
        found[how] = np.array(rows)
    counts = arguments.batch * np.arange(1, arguments.batches + 1)
    print(f"{arguments.kind}, {arguments.words} words, {arguments.seeds} seeds, {time.monotonic() - begun:.0f} s")
    print("labels      " + "".join(f"{count:>13}" for count in counts))
    for how, rows in found.items():
        cells = "".join(
            f"{100 * m:8.1f} ±{100 * s:3.1f}" for m, s in zip(rows.mean(0), rows.std(0, ddof=1), strict=True)
        )
        print(f"{how:<12}{cells}")
    target = float(found["random"].mean(axis=0)[-1])
    for how in arguments.measures:
        needed = labels_needed(found[how], target, arguments.batch)
        better = int((found[how][:, -1] > found["random"][:, -1]).sum())
        gain = 100 * (found[how] - found["random"]).mean(axis=1)
        print(
            f"{how}: {needed:.0f} labels for what {counts[-1]} random ones reach ({100 * target:.1f} %); better at the "
            f"end in {better} of {arguments.seeds} seeds; mean over the curve {gain.mean():+.1f} ± "
            f"{gain.std(ddof=1) / len(gain) ** 0.5:.1f} points"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
