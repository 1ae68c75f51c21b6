"""A causal language model's folder as a `textenv.protocols.GenerativePolicy`: the least that a judge needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from textenv.answers import AnswerFormat, Answers
from textenv.pretrained import find_folder, load_model, load_tokenizer
from textenv.sampling import SlotEngine
from textenv.sampling.models import context_length


def load_causal_lm(path: str | Path, *, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """A causal language model in float32 and its tokenizer; only safetensors and JSON are read.

    Raises:
        CheckpointError: If the folder cannot be read.
    """
    folder = find_folder(path)
    return load_model(folder, device=device).model, load_tokenizer(folder)


class CausalPolicy:
    """A loaded transformers model that textenv can sample from.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.answers = Answers(
            tokenizer, AnswerFormat.of_tokenizer(tokenizer, model.config, getattr(model, "generation_config", None))
        )
        self.vocab_size = self.answers.vocabulary.within(model.get_output_embeddings().weight.shape[0]).size
        self.context_length: int | None = context_length(model.config)

    def encode_prompt(self, prompt: str, /) -> list[int]:
        """Token ids of a prompt."""
        return self.answers.encode_prompt(prompt).ids

    def slot_engine(self, num_slots: int, max_length: int, /) -> SlotEngine:
        """A fresh engine."""
        return SlotEngine(self.model, num_slots, max_length)
