"""A classifier with several outputs as a reward model: log-odds of wanted classes, expected class value, or outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from reward_models.adapters.common import checked_scores
from reward_models.reading import say_reading
from reward_models.text_model import TextModel, TruncationSide
from reward_models.trunks import load_pretrained
from textenv.errors import ConfigError
from textenv.pretrained import find_folder

Output = str | int | Mapping[str, float] | Sequence[float]
_POSITIVE = {
    *("positive", "pos", "+", "label_1", "1", "true", "yes", "good", "chosen", "correct", "acceptable", "helpful")
}
"""What the wanted one of two classes is called, in small letters."""


class ClassifierRewardModel(TextModel):
    """Reads any transformers sequence classifier with at least two outputs.

    With `positive` the score is the log-odds of these classes against the rest,
    ``log Σ exp(logit of positive) − log Σ exp(logit of the rest)``; for a multi-label classifier, whose classes do not
    exclude one another, the logit of the one positive class, which is its log-odds. With `values` the score is the
    expected value over the classes, e.g. stars. With `output` it is an output as it is, or a weighted sum of several:
    for heads that rate several attributes. Without any of them, two classes of which one is called positive (or
    ``LABEL_1``, ``yes``, ``good``, …) give its log-odds; where nobody can know what is wanted, it has to be said.

    Args:
        model: A transformers sequence classification model.
        tokenizer: Its tokenizer.
        positive: Names (of the model's ``id2label``) or numbers of the wanted classes.
        values: One number for each class, in their order; instead of `positive`.
        output: Name or number of an output, weights by name, or one weight for each output; instead of both.
        template: As in `TextModel`.
        max_tokens: As in `TextModel`.
        truncation_side: Which end of a longer text is lost.
        autocast: Compute in bfloat16.

    Raises:
        ConfigError: If the model has one label only, more than one of `positive`, `values` and `output` is given, or
            none where it is needed, a class is unknown, or as in `TextModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        positive: Sequence[str | int] = (),
        values: Sequence[float] = (),
        output: Output | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
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
        self.multi_label = model.config.problem_type == "multi_label_classification"
        if sum((bool(positive), bool(values), output is not None)) > 1:
            raise ConfigError(
                "give either `positive` (wanted classes), `values` (a number for each class) or `output` (an output)."
            )
        if not positive and not values and output is None:
            clear = wanted_class(model.config)
            if clear is None:
                names = _names(model.config)
                raise ConfigError(
                    f"what is the score? The model has {len(names)} outputs, {', '.join(names.values())}: give either "
                    "`positive` (wanted classes, for their log-odds), `values` (a number for each class) or `output` "
                    "(an output as it is, or weights by name)."
                )
            positive = [clear]
        if values and (len(values) != labels or not np.isfinite(values).all()):
            raise ConfigError(f"`values` must be {labels} finite numbers, one for each class; got {list(values)}.")
        self.positive = sorted({class_index(name, model.config) for name in positive})
        self.values = tuple(float(value) for value in values)
        self.weights = None if output is None else _weights(output, model.config)
        if self.multi_label and output is None and len(self.positive) != 1:
            raise ConfigError("a multi-label classifier needs exactly one class as `positive`.")
        if len(self.positive) == labels:
            raise ConfigError("`positive` holds all classes; there is nothing to compare them with.")
        self.reading += f"; the score is {self._score_in_words(model.config)}"

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        positive: Sequence[str | int] = (),
        values: Sequence[float] = (),
        output: Output | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> ClassifierRewardModel:
        """Load a classifier's folder; only safetensors and JSON are read.

        Args:
            path: The folder.
            positive: As in the class.
            values: As in the class.
            output: As in the class.
            template: As in the class.
            max_tokens: As in the class.
            device: Where the model goes.

        Raises:
            CheckpointError: If a file is missing or damaged.
            ConfigError: As in the class.
        """
        model, tokenizer = load_pretrained(find_folder(path, kind="reward"), device=device)
        options: dict[str, Any] = {"positive": positive, "values": values, "output": output}
        made = cls(model, tokenizer, template=template, max_tokens=max_tokens, **options)
        say_reading(path, made, known=False)
        return made

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Log-odds, expected values or outputs, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite; names the first such text.
        """
        logits = self.logits(prompts, responses).astype(np.float64)
        if not len(responses):
            return np.zeros(0, np.float32)
        if self.weights is not None:
            scores = logits @ self.weights
        elif self.values:
            scores = softmax(logits, axis=1) @ np.array(self.values)
        elif self.multi_label:
            scores = logits[:, self.positive[0]]
        else:
            scores = log_odds(logits, self.positive)
        return checked_scores(scores, prompts, responses, source="the classifier")

    def _score_in_words(self, config: Any) -> str:
        names = _names(config)
        if self.weights is not None:
            parts = [f"{weight:g} × {names[index]}" for index, weight in enumerate(self.weights) if weight]
            return "the output " + " + ".join(parts)
        if self.values:
            return "the expected value of the classes " + ", ".join(names.values())
        return "the log-odds of " + " or ".join(names[index] for index in self.positive)


def log_odds(logits: NDArray[np.float64], positive: Sequence[int]) -> NDArray[np.float64]:
    """``log p(positive) − log p(rest)`` under the softmax of the logits ``(n, K)``, shape ``(n,)``, in nats."""
    wanted = np.isin(np.arange(logits.shape[1]), positive)
    sums = [np.asarray(logsumexp(logits[:, chosen], axis=1)) for chosen in (wanted, ~wanted)]
    return sums[0] - sums[1]


def _names(config: Any) -> dict[int, str]:
    return {int(index): str(label) for index, label in config.id2label.items()}


def wanted_class(config: Any) -> int | None:
    """The class that two classes' names say is the wanted one; None where that is not clear."""
    names = _names(config)
    found = [index for index, name in names.items() if name.lower() in _POSITIVE]
    exclusive = getattr(config, "problem_type", None) in (None, "single_label_classification")
    return found[0] if len(names) == 2 and len(found) == 1 and exclusive else None


def _weights(output: Output, config: Any) -> NDArray[np.float64]:
    """A weight for each output, shape ``(K,)``.

    Raises:
        ConfigError: If an output is unknown or the weights are unusable.
    """
    names = _names(config)
    weights = np.zeros(len(names))
    if isinstance(output, str | int):
        weights[class_index(output, config)] = 1.0
    elif isinstance(output, Mapping):
        for name, weight in output.items():
            weights[class_index(name, config)] = float(weight)
    else:
        weights = np.array(output, dtype=np.float64)
    if weights.shape != (len(names),) or not np.isfinite(weights).all() or not weights.any():
        raise ConfigError(
            f"`output` must be one of {', '.join(names.values())}, weights by these names, or {len(names)} finite "
            f"weights that are not all 0; got {output!r}."
        )
    return weights


def class_index(name: str | int, config: Any) -> int:
    """Number of a class that is given by name or number."""
    names = _names(config)
    for index, label in names.items():
        if name == label or (name == index and not isinstance(name, bool)):
            return index
    raise ConfigError(f"the classifier has no class {name!r}; it has {', '.join(names.values())}.")
