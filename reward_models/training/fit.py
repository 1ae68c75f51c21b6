"""The training loop: from labels of any kinds to a reward model that agrees with them.

The texts of a batch are of similar length, dropout is off, word embeddings stay as they are unless asked otherwise
(on two CPU cores their dense gradient costs as much as the rest of the step), and everything random is a function of
seed and epoch, so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reward_models.labels.kinds import Label
from reward_models.text_model import Row, TextModel, batches_by_length
from reward_models.training.adapters import trainable
from reward_models.training.batches import LabelBatches
from reward_models.training.config import RewardModelConfig
from reward_models.training.evaluation import evaluate
from reward_models.training.objectives import Learned
from textenv.errors import DataError
from textenv.memory import keep_freed_memory
from textenv.mixed_precision import ComputeCopy, compute_dtype
from textenv.runs import Run
from textenv.training.trainer import State, Trainer, make_optimizer
from textenv.training.world import World

_log = logging.getLogger(__name__)

Callback = Callable[[int, Mapping[str, float]], None]

_LEARNED_RATE = 0.02
"""Peak learning rate of the raters' parameters: they are few, start near their optimum and live on a scale of 1."""
_PASS_TOKENS_CPU, _PASS_TOKENS_GPU = 16_384, 65_536
"""Tokens, padding included, whose activations are held at a time; the default settings of 128 short texts fit."""
_SAME_AT_MOST = 0.5
"""Share of the labels whose answers may be the same once they are cut; above, training would teach next to nothing."""
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
        DataError: If there are no labels, they do not fit the settings, or most have answers that are the same in what
            the model reads of them.
        RunCheckError: If the loss stops being finite.
        CheckpointError: If the run's checkpoint does not fit the model.
        MissingDependencyError: If an adapter is asked for and peft is not installed.
    """
    config = config or RewardModelConfig()
    learned = Learned(labels, config)
    batches = LabelBatches(rm, labels, config, learned)
    held_out = LabelBatches(rm, validation, config, learned) if validation and config.eval_every else None
    for what, texts in (("labels", batches), ("held-out labels", held_out)):
        if texts is not None:
            _say_cut(rm, texts, what, run)
    if hasattr(rm, "normalization"):
        rm.normalization = None  # type: ignore[attr-defined]
    with trainable(rm, config):
        training = RewardTraining(rm, batches, held_out, config, run, stage)
        training.fit(callback)
    losses, best = training.losses, training.trainer.best
    tail = losses[-max(1, len(losses) // 10) :]
    summary = {"loss": float(np.mean(tail)) if tail else 0.0, "steps": float(training.trainer.step)}
    summary |= {"labels": float(len(labels)), "tokens_per_second": training.trainer.tokens_per_second}
    summary |= {f"learned_{name}": value for name, value in learned.figures().items()}
    if best.value is not None:
        summary |= {"held_out_loss": -best.value, "best_step": float(best.step)}
    return summary | (evaluate(rm, validation) if validation else {})


def _say_cut(rm: TextModel, batches: LabelBatches, what: str, run: Run | None) -> None:
    """Say how many texts are longer than the model reads, and how many labels lose their difference by that.

    Raises:
        DataError: If most of the labels do.
    """
    cut = batches.cut()
    limit = "texts of any length" if rm.max_tokens is None else f"up to {rm.max_tokens} tokens"
    said = f"reads {limit}; {cut.cut} of {cut.texts} texts of the {what} are cut on the {rm.truncation_side}"
    said += f" (the longest has {cut.longest} tokens)"
    if cut.same:
        said += f"; {cut.same} of {cut.several} {what} have answers that are the same once cut"
    if run is not None and run.console is not None:
        run.say(f"{'reward':<12} {said}")
    elif cut.cut:
        _log.warning("%s", said)
    if cut.same > _SAME_AT_MOST * cut.several:
        raise DataError(f"{said}: raise `max_tokens` (0 is what the trunk can), or cut on the other side.")


class RewardTraining:
    """One training run: the model, the raters' parameters and, with early stopping, the best weights of both.

    Args:
        rm: The model, trained in place.
        batches: Labels to learn from.
        held_out: Labels that early stopping measures; None trains to the end.
        config: Settings.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs.
    """

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
        self.rm, self.batches, self.held_out, self.config = rm, batches, held_out, config
        self.learned = batches.learned.to(rm.device)
        self.tokens = 0
        self.losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}
        optimizer = make_optimizer(
            rm.model.parameters(), learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        raters = list(self.learned.parameters())
        if raters:
            factor = max(1.0, _LEARNED_RATE / config.learning_rate)
            optimizer.add_param_group({"params": raters, "weight_decay": 0.0, "factor": factor})
        self.compute = ComputeCopy(rm.model, compute_dtype(config.dtype, rm.device))
        self.trainer = Trainer(
            self, config, optimizer, push=self.compute.push_weights, run=run, stage=stage, world=World()
        )
        self.trainer.resume()

    def fit(self, callback: Callback | None) -> None:
        """Train to the end, or until early stopping says so; the best weights are put back where it measured."""
        callbacks = [] if callback is None else [lambda own, figures: callback(self.trainer.step, figures)]
        self.trainer.fit(
            self.batches.steps,
            finished=lambda: self.trainer.best.worse >= self.config.patience,
            callbacks=callbacks,
        )
        with torch.no_grad():
            for name, weight in self.weights():
                if name in self._best:
                    weight.copy_(self._best[name])

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One optimiser step.

        Returns:
            ``train/loss`` in nats per label, ``train/accuracy`` where pairs were judged, and the rates.

        Raises:
            RunCheckError: If loss or gradient norm is not finite.
        """
        indices = self.batches.indices(self.trainer.step)
        size = self.config.micro_batch_size or len(indices)
        loss, right, tokens = 0.0, [], 0
        for part in np.array_split(indices, math.ceil(len(indices) / size)):
            share = len(part) / len(indices)
            part_loss, accuracy, seen = self.learn(part, share)
            loss, tokens = loss + share * part_loss, tokens + seen
            right += [accuracy] if math.isfinite(accuracy) else []
        figures = {"train/loss": loss}
        self.trainer.optimize(learning_rate, figures)
        self.trainer.step += 1
        self.tokens += tokens
        self.losses.append(loss)
        if right:
            figures["train/accuracy"] = float(np.mean(right))
        rates = {"train/learning_rate": learning_rate, "train/tokens_per_second": self.trainer.tokens_per_second}
        return figures | rates

    def learn(self, indices: Any, share: float) -> tuple[float, float, int]:
        """Gradients of some labels' loss, times their share of the step; returns as `forward`.

        Texts that do not fit into one pass go through the model twice: first for all their scores, of which the loss is
        made, then pass by pass with the gradients of their own. The sum is that of one pass.
        """
        rows = self.batches.rows(indices)
        passes = self._passes(rows)
        with torch.set_grad_enabled(len(passes) == 1):
            outputs = self._outputs(rows, passes)
        if len(passes) > 1:
            outputs = outputs.requires_grad_()
        loss, accuracy = self._loss(self.batches, outputs, indices)
        (share * loss).backward()
        self.compute.pull_gradients()
        for chosen in passes if len(passes) > 1 else ():
            assert outputs.grad is not None
            own = self._outputs([rows[index] for index in chosen], [np.arange(len(chosen))])
            own.backward(outputs.grad[torch.as_tensor(chosen, device=outputs.device)])
            self.compute.pull_gradients()
        return loss.item(), accuracy, sum(map(len, rows))

    def forward(self, batches: LabelBatches, indices: Any) -> tuple[torch.Tensor, float, int]:
        """Loss and accuracy of some labels, and the tokens that passed through the model."""
        rows = batches.rows(indices)
        loss, accuracy = self._loss(batches, self._outputs(rows, self._passes(rows)), indices)
        return loss, accuracy, sum(map(len, rows))

    def _passes(self, rows: Sequence[Row]) -> list[Any]:
        """Which rows go through the model together: all, unless they are more than memory should hold."""
        limit = _PASS_TOKENS_CPU if self.rm.device.type == "cpu" else _PASS_TOKENS_GPU
        lengths = [len(row) for row in rows]
        whole = len(rows) * max(lengths) <= limit
        return [np.arange(len(rows))] if whole else list(batches_by_length(lengths, batch_tokens=limit))

    def _outputs(self, rows: Sequence[Row], passes: Sequence[Any]) -> torch.Tensor:
        """The model's outputs for these rows, shape ``(R, K)``, float32."""
        multiple = _BF16_MULTIPLE if self.compute.dtype is not None else 1
        found = [
            self.compute.model(**self.rm.inputs([rows[index] for index in chosen], multiple=multiple)).logits.float()
            for chosen in passes
        ]
        if len(found) == 1:
            return found[0]
        places = torch.as_tensor(np.argsort(np.concatenate(passes)), device=found[0].device)
        return torch.cat(found)[places]

    @staticmethod
    def _loss(batches: LabelBatches, outputs: torch.Tensor, indices: Any) -> tuple[torch.Tensor, float]:
        return batches.loss(outputs[:, 0], indices, outputs[:, 1] if outputs.shape[1] == 2 else None)

    @torch.no_grad()
    def evaluate(self, *, last: bool) -> dict[str, float]:
        """The held-out loss, where early stopping measures it; remembers the weights of the smallest."""
        if self.held_out is None:
            return {}
        total = 0.0
        for indices in self.held_out.in_order():
            total += float(self.forward(self.held_out, indices)[0]) * len(indices)
        loss = total / len(self.held_out)
        if self.trainer.best.see(-loss, self.trainer.step):
            self._best = {name: weight.detach().clone() for name, weight in self.weights()}
        return {"eval/loss": loss}

    def shown(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Loss and accuracy, for the line of progress."""
        return {"loss": figures["train/loss"], "accuracy": figures.get("train/accuracy", math.nan)}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trained weights; those that are frozen are the trunk's, which a resumed run starts from again."""
        yield from ((f"model/{name}", p) for name, p in self.rm.model.named_parameters() if p.requires_grad)
        yield from ((f"learned/{name}", p) for name, p in self.learned.named_parameters())

    def get_state(self) -> State:
        """The best weights so far."""
        return State({f"best/{name}": tensor for name, tensor in self._best.items()}, {})

    def set_state(self, state: State, folder: Path) -> None:
        """Put back what :meth:`get_state` gave."""
        self._best = {n.removeprefix("best/"): t for n, t in state.tensors.items() if n.startswith("best/")}
