"""Stage two: supervised fine-tuning on demonstrations, cross-entropy on the answer tokens only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from agents.language_modeling import Example, LMConfig, train_lm
from textenv.errors import DataError
from textenv.runs import Run


class DemonstrationLike(Protocol):
    """A prompt and the answer that a person wrote."""

    @property
    def prompt(self) -> str:
        """What was asked."""
        ...

    @property
    def response(self) -> str:
        """What the person answered."""
        ...


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning.

    Attributes:
        training: Steps, rates, batch size.
    """

    training: LMConfig = field(
        default_factory=lambda: LMConfig(steps=300, batch_size=64, learning_rate=5e-4, warmup_steps=20, eval_every=50)
    )


def demonstration_examples(
    demonstrations: Sequence[DemonstrationLike], tokenizer: Any, context: int
) -> tuple[list[Example], int]:
    """Instruction and answer as examples, the loss on the answer and its end token.

    Prompt and answer are tokenised apart, as they are when the policy answers.

    Args:
        demonstrations: Prompts with answers.
        tokenizer: The policy's.
        context: Longest sequence in tokens.

    Returns:
        The examples, and how many demonstrations did not fit the context and were left out.
    """
    prompts = tokenizer([d.prompt for d in demonstrations])["input_ids"]
    responses = tokenizer([d.response for d in demonstrations], add_special_tokens=False)["input_ids"]
    examples = []
    for prompt, response in zip(prompts, responses, strict=True):
        tokens = [*prompt, *response, tokenizer.eos_token_id]
        if len(tokens) <= context:
            examples.append(Example(np.array(tokens), prompt_length=len(prompt)))
    return examples, len(demonstrations) - len(examples)


def sft(
    model: Any,
    tokenizer: Any,
    demonstrations: Sequence[DemonstrationLike],
    validation: Sequence[DemonstrationLike],
    config: SFTConfig,
    *,
    run: Run | None = None,
) -> dict[str, Any]:
    """Fine-tune a language model to answer.

    Args:
        model: Transformers causal LM, trained in place.
        tokenizer: Its tokenizer.
        demonstrations: Training demonstrations.
        validation: Held-out demonstrations.
        config: Settings.
        run: Logs, progress, checkpoints and resume.

    Returns:
        Held-out ``loss`` (nats per answer token), ``perplexity``, and ``left_out`` (demonstrations over the context).

    Raises:
        DataError: If no demonstration fits the context.
    """
    context = model.config.max_position_embeddings
    examples, left_out = demonstration_examples(demonstrations, tokenizer, context)
    held_out, _ = demonstration_examples(validation, tokenizer, context)
    if not examples or not held_out:
        raise DataError(f"no demonstration fits the model's context of {context} tokens; use a model with a longer one")
    losses = train_lm(model, {"sft": examples}, {"sft": held_out}, config.training, run=run, stage="sft")
    return {"loss": losses["sft"], "perplexity": math.exp(losses["sft"]), "left_out": left_out}
