"""The training loop: from labels of any kinds to a reward model that agrees with them.

The texts of a batch are of similar length, dropout is off, word embeddings stay as they are unless asked otherwise
(on two CPU cores their dense gradient costs as much as the rest of the step), and everything random is a function of
seed and epoch, so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from reward_models.labels.records import Label
from reward_models.text_model import TextModel, pad_right
from reward_models.training.adapters import trainable
from reward_models.training.batches import LabelBatches
from reward_models.training.config import RewardModelConfig
from reward_models.training.evaluation import evaluate
from reward_models.training.objectives import Learned
from reward_models.training.state import Best, checkpoint, resume
from textenv.errors import RunCheckError
from textenv.memory import keep_freed_memory
from textenv.mixed_precision import ComputeCopy, fast_bf16, round_up
from textenv.progress import StageProgress
from textenv.runs import Run

Callback = Callable[[int, Mapping[str, float]], None]

_LEARNED_RATE = 0.02
"""Peak learning rate of the raters' parameters: they are few, start near their optimum and live on a scale of 1."""
_BF16_MULTIPLE = 8  # tokens: shapes that repeat let the CPU's bfloat16 kernels be used again


def train(
    rm: TextModel,
    labels: Sequence[Label],
    config: RewardModelConfig | None = None,
    *,
    validation: Sequence[Label] = (),
    run: Run | None = None,
    stage: str = "reward",
    callback: Callback | None = None,
) -> dict[str, float]:
    """Train a reward model in place.

    Args:
        rm: The model; its normalisation is dropped, because it belonged to the old weights.
        labels: Of any kinds, mixed as they come; each counts alike (but for its weight). Ratings of different prompts
            are compared with each other.
        config: Settings; the defaults for None.
        validation: Held-out labels, evaluated at the end, and every `eval_every` steps for early stopping.
        run: Logs, progress and checkpoints; with a checkpoint of this stage there, training goes on from it.
        stage: Name in the logs.
        callback: Called after each step with the number of steps done and the step's figures.

    Returns:
        ``loss`` (nats per label, mean of the last tenth of the steps this call made), ``steps``, ``labels``,
        ``tokens_per_second``, the raters' learned parameters as ``learned_…``, with early stopping ``held_out_loss``
        and ``best_step``, and what `evaluate` says of the validation labels.

    Raises:
        DataError: If there are no labels, or they do not fit the settings.
        RunCheckError: If the loss stops being finite.
        CheckpointError: If the run's checkpoint does not fit the model.
        MissingDependencyError: If an adapter is asked for and peft is not installed.
    """
    config = config or RewardModelConfig()
    learned = Learned(labels, config)
    batches = LabelBatches(rm, labels, config, learned)
    held_out = LabelBatches(rm, validation, config, learned) if validation and config.eval_every else None
    if hasattr(rm, "normalization"):
        rm.normalization = None  # type: ignore[attr-defined]
    with trainable(rm, config):
        loop = _Loop(rm, batches, held_out, config, run, stage)
        recent, tokens_per_second = loop.run(callback)
    tail = recent[-max(1, len(recent) // 10) :]
    summary = {"loss": float(np.mean(tail)) if tail else 0.0, "steps": float(loop.done), "labels": float(len(labels))}
    summary["tokens_per_second"] = tokens_per_second
    summary |= {f"learned_{name}": value for name, value in learned.figures().items()}
    if held_out is not None:
        summary |= {"held_out_loss": loop.best.loss, "best_step": float(loop.best.step)}
    return summary | (evaluate(rm, validation) if validation else {})


class _Loop:
    """One training run: model, optimiser and what early stopping remembers."""

    def __init__(
        self,
        rm: TextModel,
        batches: LabelBatches,
        held_out: LabelBatches | None,
        config: RewardModelConfig,
        run: Run | None,
        stage: str,
    ) -> None:
        if rm.device.type == "cpu":
            keep_freed_memory()
        self.rm, self.batches, self.held_out = rm, batches, held_out
        self.config, self.run_folder, self.stage = config, run, stage
        self.learned = batches.learned.to(rm.device)
        self.optimizer = _optimizer(rm.model, self.learned, config)
        self.best = Best()
        self.done = resume(rm.model, self.learned, self.optimizer, self.best, run, stage)
        fast = fast_bf16(rm.device) if config.bf16 is None else config.bf16
        self.multiple = _BF16_MULTIPLE if fast else 1
        self.compute = ComputeCopy(rm.model, torch.bfloat16 if fast else None)

    def run(self, callback: Callback | None) -> tuple[list[float], float]:
        """Train to the end; returns the loss of each step and the tokens per second."""
        losses: list[float] = []
        tokens, began = 0, time.monotonic()
        console = self.run_folder.console if self.run_folder else None
        with StageProgress(self.stage, self.batches.steps, console, start=self.done) as progress:
            while self.done < self.batches.steps and not self.best.exhausted(self.config.patience):
                loss, accuracy, seen = self.step()
                losses.append(loss)
                tokens += seen
                figures = {"train/loss": loss, "train/learning_rate": self.optimizer.param_groups[0]["lr"]}
                if math.isfinite(accuracy):
                    figures["train/accuracy"] = accuracy
                figures["train/tokens_per_second"] = tokens / max(time.monotonic() - began, 1e-9)
                figures |= self.look_at_held_out()
                progress.update(self.done, {"loss": loss, "accuracy": accuracy}, tokens=tokens)
                self.record(figures)
                if callback is not None:
                    callback(self.done, figures)
        self.best.restore(self.rm.model, self.learned)
        return losses, tokens / max(time.monotonic() - began, 1e-9)

    def step(self) -> tuple[float, float, int]:
        """One optimiser step: its loss, accuracy and tokens."""
        config = self.config
        rate = config.learning_rate_at(self.done, self.batches.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        total, right, tokens = 0.0, [], 0
        for number in range(self.done * config.accumulate, (self.done + 1) * config.accumulate):
            loss, accuracy, seen = self.forward(self.batches, self.batches.indices(number))
            (loss / config.accumulate).backward()
            self.compute.pull_gradients()
            total, tokens = total + loss.item() / config.accumulate, tokens + seen
            right += [accuracy] if math.isfinite(accuracy) else []
        weights = [*self.rm.model.parameters(), *self.learned.parameters()]
        norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
        if not math.isfinite(total + norm):
            raise RunCheckError(
                f"{self.stage}, step {self.done}: loss {total}, gradient norm {norm}; lower `learning_rate`."
            )
        self.optimizer.step()
        self.compute.push_weights()
        self.done += 1
        return total, float(np.mean(right)) if right else math.nan, tokens

    def forward(self, batches: LabelBatches, indices: Any) -> tuple[torch.Tensor, float, int]:
        """Loss and accuracy of some labels, and the tokens that passed through the model."""
        rows = batches.rows(indices)
        ids, mask = pad_right(rows, self.rm.pad_token_id)
        extra = round_up(ids.shape[1], self.multiple) - ids.shape[1]
        if extra:
            ids = torch.nn.functional.pad(ids, (0, extra), value=self.rm.pad_token_id)
            mask = torch.nn.functional.pad(mask, (0, extra))
        device = self.rm.device
        logits = self.compute.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float()
        log_stds = logits[:, 1] if logits.shape[1] == 2 else None
        loss, accuracy = batches.loss(logits[:, 0], indices, log_stds)
        return loss, accuracy, sum(map(len, rows))

    def look_at_held_out(self) -> dict[str, float]:
        """The held-out loss where it is due; remembers the best weights."""
        if self.held_out is None or (self.done % self.config.eval_every and self.done < self.batches.steps):
            return {}
        total = 0.0
        with torch.no_grad():
            for indices in self.held_out.in_order():
                total += float(self.forward(self.held_out, indices)[0]) * len(indices)
        loss = total / len(self.held_out)
        self.best.see(loss, self.done, self.rm.model, self.learned)
        return {"eval/loss": loss}

    def record(self, figures: Mapping[str, float]) -> None:
        """Log and checkpoint where it is due."""
        if self.run_folder is None:
            return
        last = self.done == self.batches.steps
        if self.done % 5 == 0 or last or "eval/loss" in figures:
            self.run_folder.log(self.stage, self.done, figures)
        if self.done % self.config.checkpoint_every == 0 and not last:
            checkpoint(self.rm.model, self.learned, self.optimizer, self.best, self.run_folder, self.stage, self.done)


def _optimizer(model: torch.nn.Module, learned: Learned, config: RewardModelConfig) -> torch.optim.AdamW:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if weight.ndim >= 2]
    vectors = [weight for weight in trained if weight.ndim < 2]
    raters = list(learned.parameters())
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay, "factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
    ]
    if raters:
        factor = max(1.0, _LEARNED_RATE / config.learning_rate)
        groups.append({"params": raters, "weight_decay": 0.0, "factor": factor})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
