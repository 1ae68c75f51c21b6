"""Stage one: a tokenizer and a small causal LM from scratch, on several tasks at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agents.language_modeling import Example, LMConfig, train_lm
from textenv.errors import ConfigError, DataError
from textenv.runs import Run

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"


@dataclass(frozen=True)
class ModelConfig:
    """A small decoder-only transformer of the Llama kind.

    Attributes:
        vocab_size: Tokens of the BPE tokenizer, special ones included.
        hidden_size: Width.
        num_layers: Depth.
        num_heads: Attention heads; must divide the width.
        intermediate_size: Width of the gated MLP.
        context: Longest sequence in tokens.
    """

    vocab_size: int = 8192
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 704
    context: int = 128

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"`num_heads` ({self.num_heads}) must divide `hidden_size` ({self.hidden_size})")


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training.

    Attributes:
        model: Size of the model.
        training: Steps, rates, batch size.
        weights: Share of each task in the mixture; empty means proportional to its number of texts.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    training: LMConfig = field(default_factory=lambda: LMConfig(steps=1000, batch_size=64, learning_rate=3e-3))
    weights: dict[str, float] = field(default_factory=dict)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer; pad, begin and end are three different tokens.

    Args:
        texts: Training texts only.
        vocab_size: Size of the vocabulary, special tokens included.

    Returns:
        A transformers fast tokenizer that puts the begin token before every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def build_model(config: ModelConfig, tokenizer: Any, seed: int) -> Any:
    """A freshly initialised Llama model for a tokenizer.

    Args:
        config: Size; the vocabulary is the tokenizer's.
        tokenizer: Gives the special ids.
        seed: Of the initialisation; the global generator is left as it was.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                max_position_embeddings=config.context,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )


def text_examples(texts: Sequence[str], tokenizer: Any, context: int) -> list[Example]:
    """Whole texts as examples: begin token, text, end token; loss on everything after the begin token.

    Args:
        texts: One document each.
        tokenizer: Puts the begin token in front.
        context: Longest sequence in tokens; the rest of a longer text is left out.
    """
    examples = []
    for ids in tokenizer(list(texts))["input_ids"]:
        kept = [*ids, tokenizer.eos_token_id][:context]
        examples.append(Example(np.array(kept), prompt_length=1))
    return examples


def pretrain(
    texts: Mapping[str, Sequence[str]],
    validation: Mapping[str, Sequence[str]],
    config: PretrainConfig,
    *,
    run: Run | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train a tokenizer and a language model on several tasks.

    Args:
        texts: Training texts of each task.
        validation: Held-out texts of each task.
        config: Settings.
        run: Logs, progress, checkpoints and resume.

    Returns:
        The model, its tokenizer, and a summary: per task loss (nats per token) and perplexity, parameters, tokens.

    Raises:
        DataError: If the two sets of tasks differ.
    """
    if set(texts) != set(validation):
        raise DataError(f"training tasks {sorted(texts)} and validation tasks {sorted(validation)} differ")
    tokenizer = train_tokenizer((text for task in sorted(texts) for text in texts[task]), config.model.vocab_size)
    model = build_model(config.model, tokenizer, config.training.seed)
    examples = {task: text_examples(texts[task], tokenizer, config.model.context) for task in texts}
    held_out = {task: text_examples(validation[task], tokenizer, config.model.context) for task in validation}
    losses = train_lm(model, examples, held_out, config.training, weights=config.weights or None, run=run)
    mean_length = np.mean([len(example.tokens) for task in examples.values() for example in task])
    summary = {
        "loss": losses,
        "perplexity": {task: math.exp(loss) for task, loss in losses.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": len(tokenizer),
        "tokens": int(config.training.steps * config.training.batch_size * mean_length),
    }
    return model, tokenizer, summary
