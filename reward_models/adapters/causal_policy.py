"""A causal language model's folder as a `textenv.protocols.GenerativePolicy`: the least that a judge needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward_models.trunks import quiet
from textenv.answers import AnswerFormat, Answers
from textenv.errors import CheckpointError
from textenv.sampling import SlotEngine


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
        tokenizer = AutoTokenizer.from_pretrained(folder)
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
        self.answers = Answers(
            tokenizer, AnswerFormat.of_tokenizer(tokenizer, model.config, getattr(model, "generation_config", None))
        )
        self.vocab_size = self.answers.vocabulary.within(model.get_output_embeddings().weight.shape[0]).size
        self.context_length: int | None = getattr(model.config, "max_position_embeddings", None)

    def encode_prompt(self, prompt: str, /) -> list[int]:
        """Token ids of a prompt."""
        return self.answers.encode_prompt(prompt).ids

    def slot_engine(self, num_slots: int, max_length: int, /) -> SlotEngine:
        """A fresh engine."""
        return SlotEngine(self.model, num_slots, max_length)
