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
from reward_models.text_model import DEFAULT_MAX_TOKENS, TextModel
from textenv.errors import CheckpointError, ConfigError
from textenv.pretrained import find_folder, load_model, load_tokenizer

HEAD_NAMES = ("v_head.summary", "value_head", "reward_head", "regression_head", "score", "weight")
"""Where a head's weight is looked for: ``<name>.weight`` (or the bare name), and a bias beside it."""


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
        template: How prompt and response are joined.
        max_tokens: Longest input in tokens; longer texts lose their beginning.

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
        template: str = "{prompt}{response}",
        max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        module = HeadOnTrunk(causal_lm.base_model, weight, bias)
        super().__init__(module, tokenizer, template=template, max_tokens=max_tokens)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: str | Path | None = None,
        template: str = "{prompt}{response}",
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> ScalarHeadRewardModel:
        """Load a causal language model's folder and its head.

        Args:
            path: Folder with a causal language model.
            head: A safetensors file that holds the head; None searches the folder's own files.
            template: As in the class.
            max_tokens: Longest input; 128 or what the model allows, if that is less, for None.
            device: Where the model goes.

        Raises:
            CheckpointError: If the model or the head cannot be read or found.
            ConfigError: As in the class.
        """
        folder = find_folder(path)
        files = [Path(head)] if head is not None else sorted(folder.glob("*.safetensors"))
        weight, bias = _find_head(files, folder)
        model, tokenizer = load_model(folder, "trunk", device=device).model, load_tokenizer(folder)
        longest = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS
        limit = max_tokens or min(DEFAULT_MAX_TOKENS, longest)
        return cls(model, tokenizer, weight, bias=bias, template=template, max_tokens=limit)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """The head's output, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite; names the first such text.
        """
        return checked_scores(self.logits(prompts, responses)[:, 0], prompts, responses, source="the scalar head")


def _find_head(files: Sequence[Path], folder: Path) -> tuple[torch.Tensor, float]:
    """Weight and bias of the head in some safetensors files."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                names = set(tensors.keys())
                for stem in HEAD_NAMES:
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
    raise CheckpointError(
        f"no head in `{folder}`: looked for {', '.join(HEAD_NAMES)} in {len(files)} safetensors files."
    )
