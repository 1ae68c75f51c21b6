"""A causal language model's folder as a `textenv.protocols.GenerativePolicy`: the least that a judge needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from reward_models.trunks import quiet
from textenv.envs.tokenizers import read_tokenizer
from textenv.errors import CheckpointError
from textenv.sampling import SlotEngine
from textenv.sampling.models import context_length


def load_causal_lm(path: str | Path) -> tuple[Any, Any]:
    """A causal language model in float32 and its tokenizer; only safetensors and JSON are read.

    Raises:
        CheckpointError: If the folder cannot be read.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"`{folder}` is not a model folder: it has no config.json.")
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = read_tokenizer(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the model in `{folder}`: {error}") from error
    return model.eval(), tokenizer


class CausalPolicy:
    """A loaded transformers model that textenv can sample from.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.vocab_size = len(tokenizer)
        self.context_length: int | None = context_length(model.config)

    def encode_prompt(self, prompt: str, /) -> list[int]:
        """Token ids of a prompt."""
        return self.tokenizer.encode(prompt)

    def slot_engine(self, num_slots: int, max_length: int, /) -> SlotEngine:
        """A fresh engine."""
        return SlotEngine(self.model, num_slots, max_length)
