"""A classifier with several classes as a reward model: log-odds of the wanted classes, or the expected class value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from reward_models.adapters.common import checked_scores
from reward_models.text_model import DEFAULT_MAX_TOKENS, TextModel, TruncationSide
from reward_models.trunks import load_pretrained
from textenv.errors import ConfigError
from textenv.pretrained import find_folder


class ClassifierRewardModel(TextModel):
    """Reads any transformers sequence classifier with at least two classes.

    With `positive` the score is the log-odds of these classes against the rest,
    ``log Σ exp(logit of positive) − log Σ exp(logit of the rest)``; for a multi-label classifier, whose classes do not
    exclude one another, the logit of the one positive class, which is its log-odds. With `values` the score is the
    expected value over the classes, e.g. stars.

    Args:
        model: A transformers sequence classification model.
        tokenizer: Its tokenizer.
        positive: Names (of the model's ``id2label``) or numbers of the wanted classes.
        values: One number for each class, in their order; instead of `positive`.
        template: How prompt and response are joined.
        max_tokens: Longest input in tokens.
        truncation_side: Which end of a longer text is lost.
        autocast: Compute in bfloat16.

    Raises:
        ConfigError: If the model has one label only, not exactly one of `positive` and `values` is given, a class is
            unknown, or as in `TextModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        positive: Sequence[str | int] = (),
        values: Sequence[float] = (),
        template: str = "{prompt}{response}",
        max_tokens: int = DEFAULT_MAX_TOKENS,
        truncation_side: TruncationSide = "left",
        autocast: bool = False,
    ) -> None:
        super().__init__(
            model,
            tokenizer,
            template=template,
            max_tokens=max_tokens,
            truncation_side=truncation_side,
            autocast=autocast,
        )
        labels = int(model.config.num_labels)
        if labels < 2:
            raise ConfigError("the model has one label: it is a scalar head; use `SequenceRewardModel`.")
        if bool(positive) == bool(values):
            raise ConfigError("give either `positive` (wanted classes) or `values` (a number for each class).")
        if values and (len(values) != labels or not np.isfinite(values).all()):
            raise ConfigError(f"`values` must be {labels} finite numbers, one for each class; got {list(values)}.")
        self.positive = sorted({_class_index(name, model.config) for name in positive})
        self.values = tuple(float(value) for value in values)
        self.multi_label = model.config.problem_type == "multi_label_classification"
        if self.multi_label and len(self.positive) != 1:
            raise ConfigError("a multi-label classifier needs exactly one class as `positive`.")
        if len(self.positive) == labels:
            raise ConfigError("`positive` holds all classes; there is nothing to compare them with.")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        positive: Sequence[str | int] = (),
        values: Sequence[float] = (),
        template: str = "{prompt}{response}",
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> ClassifierRewardModel:
        """Load a classifier's folder; only safetensors and JSON are read.

        Args:
            path: The folder.
            positive: As in the class.
            values: As in the class.
            template: As in the class.
            max_tokens: Longest input; 128 or what the model allows, if that is less, for None.
            device: Where the model goes.

        Raises:
            CheckpointError: If a file is missing or damaged.
            ConfigError: As in the class.
        """
        model, tokenizer = load_pretrained(find_folder(path, kind="reward"), device=device)
        longest = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS
        limit = max_tokens or min(DEFAULT_MAX_TOKENS, longest)
        return cls(model, tokenizer, positive=positive, values=values, template=template, max_tokens=limit)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """Log-odds or expected values, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite; names the first such text.
        """
        logits = self.logits(prompts, responses).astype(np.float64)
        if not len(responses):
            return np.zeros(0, np.float32)
        if self.values:
            scores = softmax(logits, axis=1) @ np.array(self.values)
        elif self.multi_label:
            scores = logits[:, self.positive[0]]
        else:
            scores = log_odds(logits, self.positive)
        return checked_scores(scores, prompts, responses, source="the classifier")


def log_odds(logits: NDArray[np.float64], positive: Sequence[int]) -> NDArray[np.float64]:
    """``log p(positive) − log p(rest)`` under the softmax of the logits ``(n, K)``, shape ``(n,)``, in nats."""
    wanted = np.isin(np.arange(logits.shape[1]), positive)
    sums = [np.asarray(logsumexp(logits[:, chosen], axis=1)) for chosen in (wanted, ~wanted)]
    return sums[0] - sums[1]


def _class_index(name: str | int, config: Any) -> int:
    """Number of a class that is given by name or number."""
    names = {int(index): label for index, label in config.id2label.items()}
    for index, label in names.items():
        if name in (index, label):
            return index
    raise ConfigError(f"the classifier has no class {name!r}; it has {', '.join(names.values())}.")
