"""The reward-model stage on a file of labels: reads and splits them, trains, normalises, measures, writes the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy import CausalLMPolicy
from reward_models.card import write_card
from reward_models.labels import Label, LabelSplits, read_labels, split_labels
from reward_models.training import RewardModelConfig, measure, train
from textenv.cli.configs import RewardStageConfig
from textenv.cli.stages import start_reward_model
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.statistics import Interval

_EVALUATIONS = 10  # of the held-out loss in a run that does not say how many


def label_stage(
    run: Run,
    splits: LabelSplits,
    config: RewardStageConfig,
    *,
    labels_file: str,
    trunk_folder: Path | None,
    policy_folder: Path | None,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """Writes ``reward/``: the model, its normalisation on the policy's answers, and its card; returns the figures."""
    trunk, rm = start_reward_model(config, trunk_folder, auto="minilm", seed=seed)
    training = _with_evaluations(config, splits, seed)
    run.say(f"{'reward':<12} {describe(splits.train)} from {labels_file}; held out: {len(splits.validation)}")
    trained = train(rm, splits.train, training, validation=splits.validation, run=run, stage="reward")
    if policy_folder is not None:
        policy = CausalLMPolicy.from_pretrained(policy_folder)
        prompts = list(dict.fromkeys(label.prompt for label in splits.validation))[: config.normalization_samples]
        repeats = -(-config.normalization_samples // len(prompts))
        samples = policy.generate(prompts, sampling, n=repeats, seed=seed)
        rm.normalize([t.prompt for t in samples], [t.response for t in samples], policy=policy_folder.name)
    rm.save_pretrained(run.stage("reward"))
    found = measure(rm, splits.test, np.random.default_rng(seed))
    write_card(
        run.stage("reward"),
        training_data={"labels": describe(splits.train), "file": Path(labels_file).name},
        settings={"trunk": trunk, **asdict(training)},
        accuracies=found,
        evaluation_data=f"{describe(splits.test)}, held out",
    )
    return {"trunk": trunk, "training": trained, "reward_model": _figures(found)}


def member_stage(
    run: Run, splits: LabelSplits, config: RewardStageConfig, *, count: int, trunk_folder: Path | None, seed: int
) -> dict[str, Any]:
    """Writes ``members/1``, ``members/2``, …: further reward models, each on resampled labels and from its own start.

    With the one in ``reward/`` they are an ensemble whose disagreement says what to ask people next.
    """
    folders = []
    for number in range(1, count + 1):
        own = seed + 1000 * number
        drawn = np.random.default_rng(own).integers(len(splits.train), size=len(splits.train))
        _, rm = start_reward_model(config, trunk_folder, auto="minilm", seed=own)
        run.say(f"{'members':<12} {number} of {count}")
        train(
            rm,
            [splits.train[place] for place in drawn],
            _with_evaluations(config, splits, own),
            validation=splits.validation,
        )
        folder = run.stage("members") / str(number)
        rm.save_pretrained(folder)
        folders.append(str(folder.resolve()))
    return {"folders": folders}


def load_labels(labels_file: str, validation_file: str) -> LabelSplits:
    """The labels of the files, split where there is only one; figures are then measured on labels never trained on.

    With a validation file its labels serve for early stopping and for the figures.

    Raises:
        DataError: If a file is malformed, or one file holds too few labels to be split.
    """
    labels = read_labels(labels_file)
    if not validation_file:
        return split_labels(labels)
    held_out = read_labels(validation_file)
    return LabelSplits(labels, held_out, held_out)


def describe(labels: Sequence[Label]) -> str:
    """How many labels of which kind."""
    counts = Counter(type(label).__name__ for label in labels)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _with_evaluations(config: RewardStageConfig, splits: LabelSplits, seed: int) -> RewardModelConfig:
    """The training's settings, with measurements of the held-out loss where it says nothing of them."""
    training = replace(config.training, seed=seed)
    if training.eval_every:
        return training
    steps = len(splits.train) * training.epochs / training.batch_size
    return replace(training, eval_every=max(1, int(steps / _EVALUATIONS)))


def _figures(found: dict[str, Interval]) -> dict[str, Any]:
    """As the summary holds them; NaN has no place in JSON."""
    measured = {name: [x.low, x.high] for name, x in found.items() if np.isfinite(x.low)}
    pairs = {name: x.n for name, x in found.items()}
    return {**{name: x.value for name, x in found.items()}, "intervals": measured, "pairs": pairs}
