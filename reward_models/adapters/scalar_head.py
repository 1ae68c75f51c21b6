"""A causal language model with a scalar head of its own: what TRL, OpenRLHF and others save as a reward or value model.

The head reads the hidden state of the last token. A model whose head is transformers' own (``score``) needs none of
this: `SequenceRewardModel.from_pretrained` loads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from reward_models.adapters.common import checked_scores
from reward_models.normalization import Normalization
from reward_models.reading import say_reading
from reward_models.shapes import HEAD_NAMES, read_json
from reward_models.text_model import TextModel
from reward_models.trunks import read_tokenizer
from textenv.errors import CheckpointError, ConfigError
from textenv.pretrained import find_folder, load_model


class HeadOnTrunk(nn.Module):
    """A trunk and a linear head on the hidden state of each row's last real token.

    Args:
        trunk: A transformers model without its language modelling head.
        weight: Of the head, ``(D,)`` or ``(1, D)``.
        bias: Of the head.

    Raises:
        ConfigError: If the weight does not fit the trunk.
    """

    def __init__(self, trunk: Any, weight: torch.Tensor, bias: float = 0.0) -> None:
        super().__init__()
        width = trunk.config.hidden_size
        if weight.numel() != width:
            raise ConfigError(f"the head's weight has shape {tuple(weight.shape)}, expected ({width},) for this trunk.")
        self.trunk, self.config = trunk, trunk.config
        self.head = nn.Linear(width, 1, device=trunk.device)
        with torch.no_grad():
            self.head.weight.copy_(weight.reshape(1, -1))
            self.head.bias.fill_(bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Logits ``(B, 1)`` of right-padded rows ``(B, L)``."""
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return SequenceClassifierOutput(logits=self.head(last.to(self.head.weight.dtype)))


class ScalarHeadRewardModel(TextModel):
    """Scores with a causal language model and a scalar head.

    Args:
        causal_lm: A transformers causal language model (or its trunk), which is used as it is.
        tokenizer: Its tokenizer.
        weight: The head's weight, ``(D,)`` or ``(1, D)``.
        bias: The head's bias.
        template: As in `TextModel`.
        max_tokens: As in `TextModel`; longer texts lose their beginning.
        normalization: Applied to the head's output; None leaves it raw.

    Raises:
        ConfigError: If the weight does not fit, or as in `TextModel`.
    """

    def __init__(
        self,
        causal_lm: Any,
        tokenizer: Any,
        weight: torch.Tensor,
        *,
        bias: float = 0.0,
        template: str | None = None,
        max_tokens: int | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        module = HeadOnTrunk(causal_lm.base_model, weight, bias)
        super().__init__(module, tokenizer, template=template, max_tokens=max_tokens)
        self.normalization = normalization

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: str | Path | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> ScalarHeadRewardModel:
        """Load a causal language model's folder and its head; mean and deviation in its configuration count.

        Args:
            path: Folder with a causal language model.
            head: A safetensors file that holds the head; None searches the folder's own files.
            template: As in the class.
            max_tokens: As in the class.
            device: Where the model goes.

        Raises:
            CheckpointError: If the model or the head cannot be read or found.
            ConfigError: As in the class.
        """
        folder = find_folder(path)
        files = [Path(head)] if head is not None else sorted(folder.glob("*.safetensors"))
        config = folder / "config.json"
        prefix = read_json(config).get("value_head_prefix") if config.is_file() else None
        weight, bias = _find_head(files, folder, (*([prefix] if prefix else []), *HEAD_NAMES, "score", "weight"))
        model, tokenizer = load_model(folder, "trunk", device=device).model, read_tokenizer(folder)
        normalization = Normalization.of_config(model.config)
        made = cls(
            *(model, tokenizer, weight),
            bias=bias,
            template=template,
            max_tokens=max_tokens,
            normalization=normalization,
        )
        say_reading(folder, made, known=False)
        return made

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """The head's output, normalised if a normalisation is set, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite; names the first such text.
        """
        scores = self.logits(prompts, responses)[:, 0]
        if self.normalization is not None:
            scores = self.normalization.gain * scores + self.normalization.bias
        return checked_scores(scores, prompts, responses, source="the scalar head")


def _find_head(files: Sequence[Path], folder: Path, stems: Sequence[str]) -> tuple[torch.Tensor, float]:
    """Weight and bias of the head in some safetensors files, under the first of some names that is there."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                names = set(tensors.keys())
                for stem in stems:
                    weight = f"{stem}.weight" if f"{stem}.weight" in names else stem
                    if weight in names:
                        bias = weight.removesuffix("weight") + "bias"
                        value = float(tensors.get_tensor(bias)) if bias in names else 0.0
                        found = tensors.get_tensor(weight).float()
                        if not (torch.isfinite(found).all() and math.isfinite(value)):
                            raise CheckpointError(f"the head `{weight}` in `{path}` is NaN or infinite")
                        return found, value
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read `{path}`: {error}") from error
    raise CheckpointError(f"no head in `{folder}`: looked for {', '.join(stems)} in {len(files)} safetensors files.")
