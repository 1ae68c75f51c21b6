"""Cross-entropy training of a causal LM on sequences: the loop that pre-training and supervised fine-tuning share.

An example is a token sequence with a prompt length; the loss is taken on what follows the prompt. Pre-training uses a
prompt of one token (begin-of-text), fine-tuning the instruction. The order of the examples is a function of seed and
step alone, so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.forward import SequenceBatch, response_hidden, response_tokens
from agents.token_scores import score_tokens
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError, ConfigError, DataError, RunCheckError
from textenv.memory import keep_freed_memory
from textenv.mixed_precision import ComputeCopy, fast_bf16
from textenv.progress import StageProgress
from textenv.runs import Run

_POOL_BATCHES = 16  # batches that are drawn together and cut by length


@dataclass(frozen=True)
class Example:
    """A token sequence and where its loss begins.

    Attributes:
        tokens: Ids of prompt and target, int64, shape ``(L,)``.
        prompt_length: Tokens that carry no loss, at least 1.
    """

    tokens: NDArray[np.int64]
    prompt_length: int


@dataclass(frozen=True)
class LMConfig:
    """Cross-entropy training.

    Attributes:
        steps: Optimisation steps.
        batch_size: Sequences per step.
        learning_rate: Peak of the schedule.
        warmup_steps: Steps of linear warm-up; cosine decay to 10% follows.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: Gradient clip.
        bf16: Compute with a bfloat16 copy of the weights (the optimiser's stay float32); None means where the hardware
            is fast at it.
        eval_every: Steps between evaluations on held-out examples; 0 evaluates at the end only.
        checkpoint_every: Steps between checkpoints.
        seed: Order of the examples.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool | None = None
    eval_every: int = 200
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "max_grad_norm", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step (0-based): linear warm-up, then a cosine to a tenth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


class MixtureBatches:
    """Batches of a weighted mixture of tasks, as a function of the step.

    Sixteen batches are drawn at a time, ordered by length and cut, so a batch has little padding; their order is then
    shuffled. Within a task, examples come without replacement until all have been seen.

    Args:
        tasks: Examples of each task.
        weights: Share of examples drawn from each task; None means proportional to their number.
        batch_size: Sequences per batch.
        seed: Everything random here depends on it and on the step.

    Raises:
        DataError: If a task has no examples.
        ConfigError: If the weights name another set of tasks, or are not positive.
    """

    def __init__(
        self,
        tasks: Mapping[str, Sequence[Example]],
        weights: Mapping[str, float] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.names = sorted(tasks)
        empty = [name for name in self.names if not tasks[name]]
        if empty or not tasks:
            raise DataError(f"no examples for task(s): {', '.join(empty) or 'none given'}")
        weights = weights or {name: float(len(tasks[name])) for name in self.names}
        if set(weights) != set(self.names) or min(weights.values()) <= 0:
            raise ConfigError(f"task weights {dict(weights)} must be positive and name exactly {self.names}")
        self.tasks = tasks
        self.shares = np.array([weights[name] for name in self.names]) / sum(weights.values())
        self.batch_size = batch_size
        self.seed = seed
        self._pool: list[list[Example]] = []
        self._pool_number = -1
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}

    def batch(self, step: int) -> list[Example]:
        """The examples of a step (0-based)."""
        number, index = divmod(step, _POOL_BATCHES)
        if number != self._pool_number:
            self._pool, self._pool_number = self._draw_pool(number), number
        return self._pool[index]

    def _draw_pool(self, number: int) -> list[list[Example]]:
        rng = np.random.default_rng([self.seed, number])
        size = _POOL_BATCHES * self.batch_size
        # Position p of the endless sequence belongs to the task whose cumulative share holds a low-discrepancy point,
        # so every stretch of it has the asked proportions.
        drawn = [self._example(name, position) for name, position in self._positions(number * size, size)]
        drawn.sort(key=lambda example: len(example.tokens))
        batches = [drawn[i * self.batch_size : (i + 1) * self.batch_size] for i in range(_POOL_BATCHES)]
        return [batches[i] for i in rng.permutation(_POOL_BATCHES)]

    def _positions(self, start: int, count: int) -> list[tuple[str, int]]:
        """Task and running number within the task of ``count`` draws from the endless sequence."""
        edges = np.cumsum(self.shares)
        edges[-1] = 1.0
        golden = 0.6180339887498949
        tasks = np.searchsorted(edges, (np.arange(start + count) * golden) % 1.0, side="right")
        found = []
        for index, name in enumerate(self.names):
            before = int((tasks[:start] == index).sum())
            found += [(name, before + i) for i in range(int((tasks[start:] == index).sum()))]
        return found

    def _example(self, name: str, position: int) -> Example:
        examples = self.tasks[name]
        epoch, index = divmod(position, len(examples))
        return examples[self._order(name, epoch)[index]]

    def _order(self, name: str, epoch: int) -> NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._orders:
            # Two epochs of a task can meet in one pool; older ones are not needed again.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != name or k[1] >= epoch - 1}
            rng = np.random.default_rng([self.seed, self.names.index(name), epoch, 1])
            self._orders[key] = rng.permutation(len(self.tasks[name]))
        return self._orders[key]


def collate(examples: Sequence[Example], device: Any = "cpu") -> SequenceBatch:
    """Pad examples into a batch whose counted tokens are those that carry loss."""
    prompts = [example.tokens[: example.prompt_length].tolist() for example in examples]
    targets = [example.tokens[example.prompt_length :].tolist() for example in examples]
    return SequenceBatch.from_ids(prompts, targets, device=device)


def token_losses(model: Any, batch: SequenceBatch) -> torch.Tensor:
    """Negative log-likelihood of each counted token, nats, float32, shape ``(N,)``."""
    hidden, _ = response_hidden(model, batch)
    return -score_tokens(model.get_output_embeddings(), hidden, response_tokens(batch)).logprobs


@torch.no_grad()
def evaluate_lm(model: Any, examples: Sequence[Example], *, batch_size: int = 128) -> float:
    """Mean loss in nats per counted token over all examples (a mean over tokens, not over batches)."""
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    device = model.get_input_embeddings().weight.device
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        losses = token_losses(model, collate(ordered[start : start + batch_size], device))
        total += float(losses.double().sum())
        count += len(losses)
    return total / count


def make_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def train_lm(
    model: Any,
    tasks: Mapping[str, Sequence[Example]],
    validation: Mapping[str, Sequence[Example]],
    config: LMConfig,
    *,
    weights: Mapping[str, float] | None = None,
    run: Run | None = None,
    stage: str = "pretrain",
) -> dict[str, float]:
    """Train a causal LM by cross-entropy on the targets of a mixture of tasks.

    Dropout stays off, so that steps repeat exactly.

    Args:
        model: Transformers causal LM, trained in place; left in evaluation mode.
        tasks: Training examples of each task.
        validation: Held-out examples of each task.
        config: Settings.
        weights: Share of each task; None means proportional to their number.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs.

    Returns:
        Held-out loss in nats per token, ``{"<task>": loss, …}``.

    Raises:
        RunCheckError: If the loss stops being finite; the message names the step.
    """
    batches = MixtureBatches(tasks, weights, config.batch_size, config.seed)
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    device = model.get_input_embeddings().weight.device
    start = _resume(model, optimizer, run, stage)
    if device.type == "cpu":
        keep_freed_memory()
    fast = fast_bf16(device) if config.bf16 is None else config.bf16
    compute = ComputeCopy(model.eval(), torch.bfloat16 if fast else None)
    tokens_done, began = 0, time.monotonic()
    with StageProgress(stage, config.steps, run.console if run else None, start=start) as progress:
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(step)
            batch = collate(batches.batch(step), device)
            loss = token_losses(compute.model, batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            compute.pull_gradients()
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
            recent = loss.item()
            if not math.isfinite(recent + norm):
                raise RunCheckError(f"{stage}, step {step}: loss {recent}, gradient norm {norm}; lower `learning_rate`")
            optimizer.step()
            compute.push_weights()
            tokens_done += int(batch.lengths.sum())
            progress.update(step + 1, {"loss": recent}, tokens=tokens_done)
            last = step + 1 == config.steps
            if run is not None:
                metrics = {"train/loss": recent, "train/learning_rate": optimizer.param_groups[0]["lr"]}
                metrics["train/tokens_per_second"] = tokens_done / (time.monotonic() - began)
                if last or (config.eval_every and (step + 1) % config.eval_every == 0):
                    metrics |= _held_out(compute.model, validation)
                if last or (step + 1) % 10 == 0:
                    run.log(stage, step + 1, metrics)
                if (step + 1) % config.checkpoint_every == 0 and not last:
                    _checkpoint(model, optimizer, run, stage, step + 1)
    return {name: evaluate_lm(compute.model, examples) for name, examples in validation.items()}


def _held_out(model: Any, validation: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    losses = {name: evaluate_lm(model, examples[:256]) for name, examples in validation.items()}
    metrics = {"eval/loss": sum(losses.values()) / len(losses)}
    if len(losses) > 1:
        metrics |= {f"eval/loss/{name}": loss for name, loss in losses.items()}
        metrics |= {f"eval/perplexity/{name}": math.exp(loss) for name, loss in losses.items()}
    return metrics


def _checkpoint(model: Any, optimizer: torch.optim.Optimizer, run: Run, stage: str, step: int) -> None:
    def write(folder: Path) -> None:
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        save_state(folder, tensors | optimizer_tensors(optimizer), {"step": step})

    run.checkpoints(stage).save(step, write)


def _resume(model: Any, optimizer: torch.optim.Optimizer, run: Run | None, stage: str) -> int:
    """Load the newest checkpoint of the stage, if there is one; returns the step to go on with."""
    if run is None:
        return 0
    latest = run.checkpoints(stage).latest()
    step = 0
    if latest is not None:
        tensors, meta = load_state(latest)
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint `{latest}` does not fit this model: {error}") from error
        load_optimizer_tensors(optimizer, tensors)
        step = int(meta["step"])
    run.rewind(stage, step)
    return step
