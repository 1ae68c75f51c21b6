"""Label batching: labels of any kinds, cut into batches of similar length as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.labels.kinds import Label
from reward_models.text_model import Row, TextModel
from reward_models.training.config import RewardModelConfig
from reward_models.training.objectives import Learned, Outputs, make_objectives, texts_of

_POOL_BATCHES = 50  # batches that are drawn together and cut by length


class Cut(NamedTuple):
    """What of the labels' texts a model does not read.

    Attributes:
        texts: Different texts.
        cut: How many of them are longer than the model reads.
        longest: Tokens of the longest.
        several: Labels that set several answers against each other.
        same: How many of these have answers that are the same once they are cut.
    """

    texts: int
    cut: int
    longest: int
    several: int
    same: int


class LabelBatches:
    """Batches of labels of similar length, as a function of the step.

    A text that several labels of a batch need passes through the model once.

    Args:
        rm: Its tokenizer encodes the texts.
        labels: Of any kinds.
        config: Batch size, epochs, seed and the settings of the losses.
        learned: Parameters of the raters; made from the labels for None.

    Raises:
        DataError: If there are no labels, or they do not fit the settings.
    """

    def __init__(
        self, rm: TextModel, labels: Sequence[Label], config: RewardModelConfig, learned: Learned | None = None
    ) -> None:
        self.learned = Learned(labels, config) if learned is None else learned
        self._objectives, self._places = make_objectives(labels, config, self.learned)
        self._config = config
        numbers: dict[tuple[str, str], int] = {}
        self._needs = [[numbers.setdefault(text, len(numbers)) for text in texts_of(label)] for label in labels]
        self._rows = rm.encode([prompt for prompt, _ in numbers], [response for _, response in numbers], counted=False)
        lengths = [len(row) for row in self._rows]
        self._lengths = np.array([max(lengths[text] for text in need) for need in self._needs])
        self.per_epoch = math.ceil(len(labels) / config.batch_size)
        self.steps = max(1, round(self.per_epoch * config.epochs))
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self._needs)

    def cut(self) -> Cut:
        """What of the texts is not read."""
        cut = [row.length > len(row) for row in self._rows]
        several = [set(need) for need in self._needs if len(set(need)) > 1]
        same = 0
        for need in several:
            read = {tuple(self._rows[text]) for text in need}
            same += len(read) < len(need) and any(cut[text] for text in need)
        return Cut(len(cut), sum(cut), max(row.length for row in self._rows), len(several), same)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which labels a step (0-based) uses, the shorter ones first."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[index]

    def in_order(self) -> list[NDArray[np.int64]]:
        """All labels once, the shortest first."""
        order, size = np.argsort(self._lengths, kind="stable"), self._config.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def rows(self, indices: NDArray[np.int64]) -> list[Row]:
        """Token ids of the texts that these labels need, each once, in the order of first need."""
        return [self._rows[text] for text in self._texts(indices)]

    def loss(
        self, scores: torch.Tensor, indices: NDArray[np.int64], log_stds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, float]:
        """Mean loss per label, and the share of decided pairs (of steps) that is right (NaN without any).

        Args:
            scores: One per row of `rows`, shape ``(R,)``.
            indices: The labels.
            log_stds: Logarithm of the spreads, shape ``(R,)``, of a model with two outputs.
        """
        position = {text: place for place, text in enumerate(self._texts(indices))}
        total, right, judged = scores.new_zeros(()), 0.0, 0
        for number, objective in enumerate(self._objectives):
            mine = [index for index in indices if self._places[index][0] == number]
            if not mine:
                continue
            needs = [[position[text] for text in self._needs[index]] for index in mine]
            widest = max(map(len, needs))
            # What a label's row has too much is never looked at; position 0 is as good as any.
            matrix = torch.tensor([need + [0] * (widest - len(need)) for need in needs], device=scores.device)
            outputs = Outputs(scores[matrix], None if log_stds is None else log_stds[matrix])
            which = torch.tensor([self._places[index][1] for index in mine])
            loss, accuracy = objective.loss(outputs, which)
            total = total + loss * (len(mine) / len(indices))
            if math.isfinite(accuracy):
                right, judged = right + accuracy * len(mine), judged + len(mine)
        if self._config.centering:
            total = total + self._config.centering * scores.square().mean()
        return total, right / judged if judged else math.nan

    def _texts(self, indices: NDArray[np.int64]) -> list[int]:
        return list(dict.fromkeys(text for index in indices for text in self._needs[index]))

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
