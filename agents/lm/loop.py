"""The loop of cross-entropy training: what pre-training and supervised fine-tuning share.

A step's batch comes in parts from a source that is a function of the step, so a resumed run sees what an uninterrupted
one sees; several processes each compute their part and sum gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.learning.world import World
from agents.lm.batches import Batch, real_tokens, token_weights, weighted_loss
from agents.lm.config import LMConfig
from agents.lm.noise import noisy_embeddings
from agents.lm.throughput import utilization
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError, RunCheckError
from textenv.memory import keep_freed_memory
from textenv.mixed_precision import ComputeCopy, fast_bf16, float32_masters
from textenv.progress import StageProgress
from textenv.runs import Run

_LOG_EVERY = 10


class BatchSource(Protocol):
    """Batches as a function of the step."""

    def parts(self, step: int, /) -> Sequence[Batch]:
        """The parts of a step's batch (0-based) that this process computes, one after the other."""
        ...


Evaluate = Callable[[Any, bool], dict[str, float]]
"""Held-out figures of a model, ``group/name``; the second argument is True at the end of training."""


def make_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


class Trainer:
    """Trains a model on a source of batches.

    Dropout stays off, so that steps repeat exactly.

    Args:
        model: Transformers causal LM, trained in place; left in evaluation mode.
        source: Batches.
        config: Settings.
        evaluate: Held-out figures, logged every ``config.eval_every`` steps and at the end.
        on_evaluate: Called with step and model after each of these evaluations, such as for samples.
        context: Tokens that a token can see, for the model FLOP utilisation; 0 leaves it out.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs.
        world: The processes that share the work.
    """

    def __init__(
        self,
        model: Any,
        source: BatchSource,
        config: LMConfig,
        *,
        evaluate: Evaluate | None = None,
        on_evaluate: Callable[[int, Any], None] | None = None,
        context: int = 0,
        run: Run | None = None,
        stage: str = "pretrain",
        world: World | None = None,
    ) -> None:
        self.model = model.eval()
        self.source = source
        self.config = config
        self.evaluate = evaluate
        self.on_evaluate = on_evaluate
        self.context = context
        self.run = run
        self.stage = stage
        self.world = world or World()
        float32_masters(self.model)
        self.optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
        self.step = _resume(model, self.optimizer, run, stage, self.world)
        self.device = model.get_input_embeddings().weight.device
        if self.device.type == "cpu":
            keep_freed_memory()
        fast = fast_bf16(self.device) if config.bf16 is None else config.bf16
        self.compute = ComputeCopy(self.model, torch.bfloat16 if fast else None, fused=True)
        self.tokens = 0
        self.tokens_per_second = 0.0

    def train(self) -> Any:
        """Take all remaining steps; returns the model that computes (the copy in bfloat16, where there is one).

        Raises:
            RunCheckError: If the loss stops being finite; the message names the step.
        """
        config = self.config
        console = self.run.console if self.run and self.world.is_main else None
        began = time.monotonic()
        with StageProgress(self.stage, config.steps, console, start=self.step) as progress:
            while self.step < config.steps:
                loss, tokens = self.update()
                self.tokens += tokens
                self.tokens_per_second = self.tokens / (time.monotonic() - began)
                figures = {"loss": loss}
                if console is not None and self.context:
                    figures["mfu"] = self.utilization
                progress.update(self.step, figures, tokens=self.tokens)
                self._record(loss)
        return self.compute.model

    @property
    def utilization(self) -> float:
        """Model FLOP utilisation so far, of one process."""
        dtype = self.compute.dtype or torch.float32
        return utilization(self.compute.model, self.context, self.tokens_per_second, dtype) / self.world.size

    def update(self) -> tuple[float, int]:
        """One optimisation step; returns its loss (nats) and the tokens read, of all processes.

        Raises:
            RunCheckError: If loss or gradient norm is not finite.
        """
        config, step, world = self.config, self.step, self.world
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        parts = list(self.source.parts(step))
        weighed = [token_weights(part, config.loss_reduction) for part in parts]
        # What this process counts; the divisor is everybody's, so that summed gradients are the whole batch's.
        local = torch.tensor(
            [sum(total for _, total in weighed), sum(real_tokens(p) for p in parts)], dtype=torch.float64
        )
        divisor, tokens = (float(value) for value in world.sum(local))
        self.optimizer.zero_grad(set_to_none=True)
        recent = 0.0
        for index, (part, (weights, _)) in enumerate(zip(parts, weighed, strict=True)):
            number = index * world.size + world.rank
            with noisy_embeddings(self.compute.model, part, config.neftune_alpha, (config.seed, step, number)):
                loss = weighted_loss(self.compute.model, part, weights / divisor)
            loss.backward()
            self.compute.pull_gradients()
            recent += loss.item()
        world.reduce_gradients(self.model.parameters())
        recent = float(world.sum(torch.tensor(recent, dtype=torch.float64)))
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        if not math.isfinite(recent + norm):
            raise RunCheckError(
                f"{self.stage}, step {step}: loss {recent}, gradient norm {norm}; lower `learning_rate`"
            )
        self.optimizer.step()
        self.compute.push_weights()
        self.step += 1
        return recent, int(tokens)

    def _record(self, loss: float) -> None:
        """Evaluate, log and checkpoint where it is time."""
        config, run, step = self.config, self.run, self.step
        last = step == config.steps
        evaluating = last or bool(config.eval_every and step % config.eval_every == 0)
        if run is None or not self.world.is_main:
            return
        metrics = {"train/loss": loss, "train/learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        metrics["train/tokens_per_second"] = self.tokens_per_second
        if evaluating and self.context:
            metrics["train/model_flops_utilization"] = self.utilization
        if evaluating and self.evaluate is not None:
            metrics |= self.evaluate(self.compute.model, last)
        if evaluating and self.on_evaluate is not None:
            self.on_evaluate(step, self.compute.model)
        if evaluating or step % _LOG_EVERY == 0:
            run.log(self.stage, step, metrics)
        if step % config.checkpoint_every == 0 and not last:
            _checkpoint(self.model, self.optimizer, run, self.stage, step)


def _checkpoint(model: Any, optimizer: torch.optim.Optimizer, run: Run, stage: str, step: int) -> None:
    def write(folder: Path) -> None:
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        save_state(folder, tensors | optimizer_tensors(optimizer), {"step": step})

    run.checkpoints(stage).save(step, write)


def _resume(model: Any, optimizer: torch.optim.Optimizer, run: Run | None, stage: str, world: World) -> int:
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
    if world.is_main:
        run.rewind(stage, step)
    return step
