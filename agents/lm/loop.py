"""Cross-entropy training: what pre-training and supervised fine-tuning share.

A step's batch comes in parts from a source that is a function of the step, so a resumed run sees what an uninterrupted
one sees; several processes each compute their part and sum gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.lm.batches import Batch, real_tokens, token_weights, weighted_loss
from agents.lm.config import LMConfig
from agents.lm.noise import noisy_embeddings
from agents.lm.throughput import utilization
from textenv.memory import keep_freed_memory
from textenv.mixed_precision import ComputeCopy, compute_dtype, float32_masters
from textenv.runs import Run
from textenv.training.trainer import State, Trainer, make_optimizer
from textenv.training.world import World


class BatchSource(Protocol):
    """Batches as a function of the step."""

    def parts(self, step: int, /) -> Sequence[Batch]:
        """The parts of a step's batch (0-based) that this process computes, one after the other."""
        ...


Evaluate = Callable[[Any, bool], dict[str, float]]
"""Held-out figures of a model, ``group/name``; the second argument is True at the end of training."""


class LanguageModeling:
    """Trains a model on a source of batches.

    Dropout stays off, so that steps repeat exactly.

    Args:
        model: Transformers causal LM, trained in place; left in evaluation mode.
        source: Batches.
        config: Settings.
        held_out: Held-out figures, logged every ``config.eval_every`` steps and at the end.
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
        held_out: Evaluate | None = None,
        on_evaluate: Callable[[int, Any], None] | None = None,
        context: int = 0,
        run: Run | None = None,
        stage: str = "pretrain",
        world: World | None = None,
    ) -> None:
        self.model = model.eval()
        self.source = source
        self.config = config
        self.held_out = held_out
        self.on_evaluate = on_evaluate
        self.context = context
        self.world = world or World()
        self.tokens = 0
        float32_masters(self.model)
        device = model.get_input_embeddings().weight.device
        if device.type == "cpu":
            keep_freed_memory()
        self.compute = ComputeCopy(self.model, compute_dtype(config.dtype, device), fused=True)
        optimizer = make_optimizer(
            model.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.95),
        )
        self.trainer = Trainer(
            self,
            config,
            optimizer,
            push=self.compute.push_weights,
            run=run,
            stage=stage,
            world=self.world,
        )
        self.trainer.resume()

    def train(self) -> Any:
        """Take all remaining steps; returns the model that computes (the copy in bfloat16, where there is one).

        Raises:
            RunCheckError: If the loss stops being finite; the message names the step.
        """
        self.trainer.fit(self.config.steps)
        return self.compute.model

    @property
    def utilization(self) -> float:
        """Model FLOP utilisation so far, of one process."""
        dtype, rate = self.compute.dtype or torch.float32, self.trainer.tokens_per_second
        return utilization(self.compute.model, self.context, rate, dtype) / self.world.size

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One optimisation step.

        Returns:
            ``train/loss`` in nats, of all processes, and the rates.

        Raises:
            RunCheckError: If loss or gradient norm is not finite.
        """
        config, step, world = self.config, self.trainer.step, self.world
        parts = list(self.source.parts(step))
        weighed = [token_weights(part, config.loss_reduction) for part in parts]
        # 1. What this process counts; the divisor is everybody's, so that summed gradients are the whole batch's.
        local = torch.tensor(
            [sum(total for _, total in weighed), sum(real_tokens(p) for p in parts)], dtype=torch.float64
        )
        divisor, tokens = (float(value) for value in world.sum(local))
        # 2. The gradient of each part.
        share = 0.0
        for index, (part, (weights, _)) in enumerate(zip(parts, weighed, strict=True)):
            number = index * world.size + world.rank
            with noisy_embeddings(self.compute.model, part, config.neftune_alpha, (config.seed, step, number)):
                loss = weighted_loss(self.compute.model, part, weights / divisor)
            loss.backward()
            self.compute.pull_gradients()
            share += loss.item()
        # 3. The step.
        figures = {"train/loss": float(world.sum(torch.tensor(share, dtype=torch.float64)))}
        self.trainer.optimize(learning_rate, figures)
        self.trainer.step += 1
        self.tokens += int(tokens)
        rates = {"train/learning_rate": learning_rate, "train/tokens_per_second": self.trainer.tokens_per_second}
        return figures | rates

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Held-out figures, where a run keeps them."""
        if self.trainer.run is None or not self.world.is_main:
            return {}
        figures = {"train/model_flops_utilization": self.utilization} if self.context else {}
        if self.held_out is not None:
            figures |= self.held_out(self.compute.model, last)
        if self.on_evaluate is not None:
            self.on_evaluate(self.trainer.step, self.compute.model)
        return figures

    def shown(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The loss, and the utilisation where it is known."""
        return {"loss": figures["train/loss"], **({"mfu": self.utilization} if self.context else {})}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trained weights."""
        return ((f"model/{name}", p) for name, p in self.model.named_parameters() if p.requires_grad)

    def get_state(self) -> State:
        """Nothing: batches are a function of the step."""
        return State({}, {})

    def set_state(self, state: State, folder: Path) -> None:
        """Nothing."""
