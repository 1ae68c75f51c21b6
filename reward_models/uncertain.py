"""A reward model that knows what it does not know: score and spread of each response from one head with two outputs.

Trained with ``ratings_loss="gaussian"`` it says how far people's single ratings of a response scatter (aleatoric
uncertainty: what the texts leave open), which an ensemble's disagreement does not tell. Source: Kendall & Gal 2017,
arXiv:1703.04977, section 2.2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reward_models.base import paired
from reward_models.reading import trunk_template
from reward_models.sequence import SIDE_FILE
from reward_models.text_model import TextModel
from reward_models.trunks import load_pretrained, load_trunk
from textenv.checkpoints import write_atomic
from textenv.errors import CheckpointError, ConfigError, RewardError
from textenv.pretrained import find_folder, quiet

_KIND = "uncertain"


class Judgement(NamedTuple):
    """What the model says about responses.

    Attributes:
        means: Expected rating, shape ``(n,)``, float32.
        stds: Standard deviation of a single rating around it, shape ``(n,)``, float32.
    """

    means: NDArray[np.float32]
    stds: NDArray[np.float32]


class UncertainRewardModel(TextModel):
    """Scores with a spread; `score` gives the means, lowered by `caution` standard deviations.

    Args:
        model: A transformers sequence classification model with two labels: mean, and logarithm of the spread.
        tokenizer: Its tokenizer.
        template: As in `TextModel`.
        max_tokens: As in `TextModel`.
        add_special_tokens: As in `TextModel`.
        caution: Standard deviations to take off in `score`: above 0 a policy is not paid for answers that divide
            people.

    Raises:
        ConfigError: If the model has another number of labels, or as in `TextModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str | None = None,
        max_tokens: int | None = None,
        add_special_tokens: bool | None = None,
        caution: float = 0.0,
    ) -> None:
        if model.config.num_labels != 2:
            raise ConfigError(f"the model must have 2 labels (mean and log spread), got {model.config.num_labels}.")
        super().__init__(
            model, tokenizer, template=template, max_tokens=max_tokens, add_special_tokens=add_special_tokens
        )
        self.caution = caution

    @classmethod
    def from_trunk(
        cls,
        trunk: str | Path | Any,
        tokenizer: Any = None,
        *,
        seed: int = 0,
        template: str | None = None,
        max_tokens: int | None = None,
        caution: float = 0.0,
    ) -> UncertainRewardModel:
        """A pre-trained trunk with a fresh head; every spread starts at 1. Arguments as in `SequenceRewardModel`."""
        model, tokenizer = load_trunk(trunk, tokenizer, seed=seed)
        _add_output(model)
        template = template or trunk_template(tokenizer)
        return cls(model, tokenizer, template=template, max_tokens=max_tokens, caution=caution)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, caution: float = 0.0, device: str | torch.device = "cpu"
    ) -> UncertainRewardModel:
        """Load a folder that `save_pretrained` wrote.

        Raises:
            CheckpointError: If it cannot be read, or holds another kind of model.
        """
        folder = find_folder(path, kind="reward")
        model, tokenizer = load_pretrained(folder, device=device)
        try:
            side = json.loads((folder / SIDE_FILE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read `{folder / SIDE_FILE}`: {error}.") from error
        if side.get("kind") != _KIND:
            raise CheckpointError(f"`{folder}` holds no reward model with a spread; use `SequenceRewardModel`.")
        reads = {name: side[name] for name in ("template", "max_tokens")}
        reads["add_special_tokens"] = side.get("add_special_tokens", True)  # as in earlier versions
        return cls(model, tokenizer, **reads, caution=caution)

    def save_pretrained(self, path: str | Path) -> None:
        """Write weights, configuration and tokenizer; plain transformers loads them as a model with two labels."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        side = {"format_version": 1, "kind": _KIND, "template": self.template.template, "max_tokens": self.max_tokens}
        side["add_special_tokens"] = self.add_special_tokens
        write_atomic(folder / SIDE_FILE, json.dumps(side, indent=2) + "\n")

    def judge(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Judgement:
        """Mean and spread of each response.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a number is not finite.
        """
        if not len(responses):
            return Judgement(np.zeros(0, np.float32), np.zeros(0, np.float32))
        logits = self.logits(prompts, responses)
        if not np.isfinite(logits).all():
            bad = int(np.argmin(np.isfinite(logits).all(axis=1)))
            response = paired(prompts, responses)[bad][1]
            raise RewardError(f"the reward model gave {logits[bad]} for the response {response[:80]!r}.")
        return Judgement(logits[:, 0], np.exp(logits[:, 1]))

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Means less `caution` times the spreads, shape ``(n,)``; raises as `judge`."""
        found = self.judge(prompts, responses)
        return (found.means - self.caution * found.stds).astype(np.float32)


@torch.no_grad()
def _add_output(model: Any) -> None:
    """Give the scalar head a second output that says 0 (a log spread) for everything."""
    name, head = next(
        (name, module)
        for name, module in reversed(list(model.named_modules()))
        if isinstance(module, nn.Linear) and module.out_features == 1
    )
    wider = nn.Linear(head.in_features, 2, bias=head.bias is not None).to(head.weight)
    wider.weight.zero_()
    wider.weight[:1] = head.weight
    if head.bias is not None:
        wider.bias.zero_()
        wider.bias[:1] = head.bias
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, wider)
    model.config.num_labels = model.num_labels = 2
