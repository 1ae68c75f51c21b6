"""Training a reward model on human labels: Bradley-Terry on all pairs of a batch of ratings, or on comparisons.

The texts of a batch are of similar length, dropout is off, word embeddings stay as they are unless asked otherwise
(on two CPU cores their dense gradient costs as much as the rest of the step), and everything random is a function of
seed and epoch, so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.labels import Comparison, Label, Rating
from reward_models.losses import bradley_terry, rated_pairs
from reward_models.metrics import pair_accuracy
from reward_models.sequence import SequenceRewardModel
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError, ConfigError, DataError, RunCheckError
from textenv.mixed_precision import ComputeCopy, fast_bf16
from textenv.progress import StageProgress
from textenv.runs import Run

_POOL_BATCHES = 50  # batches that are drawn together and cut by length


@dataclass(frozen=True)
class RewardModelConfig:
    """Reward model training; the defaults are for MiniLM on the human ratings.

    Attributes:
        epochs: Passes over the labels; may be a fraction.
        batch_size: Labels per step.
        learning_rate: Peak, reached after the warm-up; decays linearly to 0.
        warmup_fraction: Share of the steps with a rising learning rate.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: Gradient clip.
        min_gap: Ratings that differ by this or less make no pair.
        label_smoothing: Believed share of wrong comparisons, from 0 to below 0.5.
        freeze_embeddings: Leave the word embeddings as they are.
        bf16: Compute with a bfloat16 copy of the weights; None means where the hardware is fast at it.
        checkpoint_every: Steps between checkpoints of a run.
        seed: Order of the labels.
    """

    epochs: float = 1.0
    batch_size: int = 64
    learning_rate: float = 2e-4
    warmup_fraction: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    min_gap: float = 0.3
    label_smoothing: float = 0.0
    freeze_embeddings: bool = True
    bf16: bool | None = None
    checkpoint_every: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_grad_norm", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"`warmup_fraction` must be in [0, 1), got {self.warmup_fraction}.")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"`label_smoothing` must be in [0, 0.5), got {self.label_smoothing}.")
        if self.min_gap < 0 or self.weight_decay < 0:
            raise ConfigError(f"`min_gap` and `weight_decay` must be ≥ 0, got {self.min_gap}, {self.weight_decay}.")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of a step (0-based) of so many: linear warm-up, then linear decay that ends at 0."""
        warmup = self.warmup_fraction * steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        return self.learning_rate * min(rise, (steps - step) / max(1.0, steps - warmup))


def train(
    rm: SequenceRewardModel,
    labels: Sequence[Label],
    config: RewardModelConfig | None = None,
    *,
    validation: Sequence[Label] = (),
    run: Run | None = None,
    stage: str = "reward",
    callback: Callable[[int, Mapping[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train a reward model in place.

    Args:
        rm: The model; its normalisation is dropped, because it belonged to the old weights.
        labels: Ratings, or comparisons; one kind per call. Ratings of different prompts are compared with each other.
        config: Settings; the defaults for None.
        validation: Held-out labels of either kind, evaluated at the end.
        run: Logs, progress and checkpoints; with a checkpoint of this stage there, training goes on from it.
        stage: Name in the logs.
        callback: Called after each step with the number of steps done and the step's figures.

    Returns:
        ``loss`` (nats per pair, mean of the last tenth of the steps this call made), ``steps``, ``labels``,
        ``tokens_per_second``, and of the validation labels ``accuracy`` and, for ratings, ``accuracy_gap_0_5``.

    Raises:
        DataError: If there are no labels, or ratings and comparisons are mixed.
        RunCheckError: If the loss stops being finite.
        CheckpointError: If the run's checkpoint does not fit the model.
    """
    config = config or RewardModelConfig()
    batches = LabelBatches(rm, labels, config)
    rm.normalization = None
    with _trainable(rm.model, freeze_embeddings=config.freeze_embeddings):
        recent, tokens_per_second = _fit(rm, batches, config, run, stage, callback)
    tail = recent[-max(1, len(recent) // 10) :]
    summary = {"loss": float(np.mean(tail)) if tail else 0.0, "steps": float(batches.steps)}
    summary |= {"labels": float(len(labels)), "tokens_per_second": tokens_per_second}
    return summary | (evaluate(rm, validation) if validation else {})


def evaluate(rm: SequenceRewardModel, labels: Sequence[Label]) -> dict[str, float]:
    """Accuracy on labels: ``accuracy``, and for ratings also ``accuracy_gap_0_5``; ties count one half.

    Raises:
        DataError: If there are no labels, or ratings and comparisons are mixed.
    """
    if _kind(labels) is Rating:
        ratings = cast(Sequence[Rating], labels)
        scores = rm.score_raw([label.prompt for label in ratings], [label.response for label in ratings])
        means = [label.score for label in ratings]
        found = pair_accuracy(scores, means, np.random.default_rng(0), gaps=(0.0, 0.5), resamples=0)
        return {"accuracy": found[0.0].value, "accuracy_gap_0_5": found[0.5].value}
    comparisons = cast(Sequence[Comparison], labels)
    prompts = [label.prompt for label in comparisons]
    chosen = rm.score_raw(prompts, [label.chosen for label in comparisons])
    rejected = rm.score_raw(prompts, [label.rejected for label in comparisons])
    return {"accuracy": float(np.mean(0.5 * (np.sign(chosen - rejected) + 1)))}


class LabelBatches:
    """Batches of labels of similar length, as a function of the step.

    Args:
        rm: Its tokenizer encodes the texts.
        labels: Ratings or comparisons.
        config: Batch size, epochs, seed and the settings of the loss.

    Raises:
        DataError: If there are no labels, or ratings and comparisons are mixed.
    """

    def __init__(self, rm: SequenceRewardModel, labels: Sequence[Label], config: RewardModelConfig) -> None:
        self.rated = _kind(labels) is Rating
        self._config = config
        if self.rated:
            ratings = cast(Sequence[Rating], labels)
            self._rows = rm.encode([x.prompt for x in ratings], [x.response for x in ratings])
            self._lengths = np.array([len(row) for row in self._rows])
            self._targets = torch.tensor([x.score for x in ratings], dtype=torch.float32)
            self._weights = torch.ones(len(ratings))
        else:
            pairs = cast(Sequence[Comparison], labels)
            prompts = [x.prompt for x in pairs]
            chosen, rejected = ([getattr(x, side) for x in pairs] for side in ("chosen", "rejected"))
            self._rows = rm.encode(prompts, chosen) + rm.encode(prompts, rejected)
            lengths = np.array([len(row) for row in self._rows]).reshape(2, -1)
            self._lengths = lengths.max(axis=0)
            self._targets = torch.tensor([x.margin for x in pairs], dtype=torch.float32)
            self._weights = torch.tensor([x.weight for x in pairs], dtype=torch.float32)
        self._per_epoch = math.ceil(len(labels) / config.batch_size)
        self.steps = max(1, round(self._per_epoch * config.epochs))
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which labels a step (0-based) uses."""
        epoch, index = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[index]

    def rows(self, indices: NDArray[np.int64]) -> list[list[int]]:
        """Token ids of the texts of these labels; for comparisons first all chosen, then all rejected ones."""
        if self.rated:
            return [self._rows[index] for index in indices]
        return [self._rows[index + offset] for offset in (0, len(self._lengths)) for index in indices]

    def loss(self, scores: torch.Tensor, indices: NDArray[np.int64]) -> tuple[torch.Tensor, float]:
        """Loss in nats per pair, and the share of pairs in the right order (NaN without pairs).

        Args:
            scores: One per row of `rows`, shape ``(B,)`` or ``(2 B,)``.
            indices: The labels.
        """
        targets = self._targets[indices].to(scores.device)
        smoothing = self._config.label_smoothing
        if self.rated:
            loss = rated_pairs(scores, targets, min_gap=self._config.min_gap, label_smoothing=smoothing)
            better, worse = torch.nonzero(targets[:, None] - targets > self._config.min_gap, as_tuple=True)
            return loss, float((scores[better] > scores[worse]).float().mean())
        chosen, rejected = scores.chunk(2)
        weights = self._weights[indices].to(scores.device)
        loss = bradley_terry(chosen, rejected, margin=targets, label_smoothing=smoothing, weights=weights)
        return loss, float((chosen > rejected).float().mean())

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        size = self._config.batch_size
        rng = np.random.default_rng([self._config.seed, epoch])
        order = rng.permutation(len(self._lengths))
        batches = []
        for start in range(0, len(order), size * _POOL_BATCHES):
            pool = order[start : start + size * _POOL_BATCHES]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def _fit(
    rm: SequenceRewardModel,
    batches: LabelBatches,
    config: RewardModelConfig,
    run: Run | None,
    stage: str,
    callback: Callable[[int, Mapping[str, float]], None] | None,
) -> tuple[list[float], float]:
    """The loop; returns the loss of each step and the tokens per second."""
    optimizer = _optimizer(rm.model, config)
    start = _resume(rm.model, optimizer, run, stage)
    fast = fast_bf16(rm.device) if config.bf16 is None else config.bf16
    compute = ComputeCopy(rm.model, torch.bfloat16 if fast else None)
    losses: list[float] = []
    tokens, began = 0, time.monotonic()
    with StageProgress(stage, batches.steps, run.console if run else None, start=start) as progress:
        for step in range(start, batches.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step, batches.steps)
            indices = batches.indices(step)
            ids, mask = rm.pad(batches.rows(indices))
            scores = compute.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
            loss, accuracy = batches.loss(scores, indices)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            compute.pull_gradients()
            norm = float(torch.nn.utils.clip_grad_norm_(rm.model.parameters(), config.max_grad_norm))
            losses.append(loss.item())
            if not math.isfinite(losses[-1] + norm):
                raise RunCheckError(
                    f"{stage}, step {step}: loss {losses[-1]}, gradient norm {norm}; lower `learning_rate`."
                )
            optimizer.step()
            compute.push_weights()
            tokens += int(mask.sum())
            figures = {"train/loss": losses[-1], "train/learning_rate": optimizer.param_groups[0]["lr"]}
            if math.isfinite(accuracy):
                figures["train/accuracy"] = accuracy
            figures["train/tokens_per_second"] = tokens / max(time.monotonic() - began, 1e-9)
            done = step + 1
            progress.update(done, {"loss": losses[-1], "accuracy": accuracy}, tokens=tokens)
            if run is not None and (done % 5 == 0 or done == batches.steps):
                run.log(stage, done, figures)
            if run is not None and done % config.checkpoint_every == 0 and done < batches.steps:
                _checkpoint(rm.model, optimizer, run, stage, done)
            if callback is not None:
                callback(done, figures)
    return losses, tokens / max(time.monotonic() - began, 1e-9)


def _kind(labels: Sequence[Label]) -> type[Rating] | type[Comparison]:
    kinds = {type(label) for label in labels}
    if len(kinds) != 1 or not kinds <= {Rating, Comparison}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise DataError(f"labels must be all `Rating` or all `Comparison`, got {names}.")
    return Rating if kinds == {Rating} else Comparison


@contextmanager
def _trainable(model: Any, *, freeze_embeddings: bool) -> Iterator[None]:
    """The model with every weight trainable, but perhaps for the word embeddings; put back as it was afterwards."""
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    model.requires_grad_(True)
    if freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(before[name])
            weight.grad = None


def _optimizer(model: torch.nn.Module, config: RewardModelConfig) -> torch.optim.AdamW:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _checkpoint(model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: Run, stage: str, step: int) -> None:
    def write(folder: Path) -> None:
        # Frozen weights are those of the trunk, which the resumed run starts from again.
        weights = {f"model/{name}": value for name, value in model.named_parameters() if value.requires_grad}
        save_state(folder, weights | optimizer_tensors(optimizer), {"step": step})

    run.checkpoints(stage).save(step, write)


def _resume(model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: Run | None, stage: str) -> int:
    """Load the newest checkpoint of the stage, if there is one; returns the step to go on with."""
    if run is None:
        return 0
    latest = run.checkpoints(stage).latest()
    step = 0
    if latest is not None:
        tensors, meta = load_state(latest)
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            saved = tensors.get(f"model/{name}")
            if saved is None or saved.shape != weight.shape:
                raise CheckpointError(f"the checkpoint `{latest}` does not fit this model (weight `{name}`).")
            with torch.no_grad():
                weight.copy_(saved)
        load_optimizer_tensors(optimizer, tensors)
        step = int(meta["step"])
    run.rewind(stage, step)
    return step
