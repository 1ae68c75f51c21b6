"""Fresh models and tokenizers: presets of the Llama and GPT-2 kinds, byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from textenv.errors import ConfigError
from textenv.settings import PositiveInt, Settings

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"


class Shape(NamedTuple):
    """Size of a preset; parameters in its name are counted with a vocabulary of 8,192."""

    kind: Literal["llama", "gpt2"]
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int


PRESETS: dict[str, Shape] = {
    "llama-1m": Shape("llama", 96, 3, 3, 256),
    "llama-5m": Shape("llama", 256, 4, 4, 704),
    "llama-15m": Shape("llama", 384, 6, 6, 1056),
    "llama-50m": Shape("llama", 640, 9, 10, 1728),
    "llama-150m": Shape("llama", 896, 14, 14, 2432),
    "gpt2-1m": Shape("gpt2", 96, 3, 3, 384),
    "gpt2-5m": Shape("gpt2", 256, 4, 4, 1024),
    "gpt2-15m": Shape("gpt2", 384, 6, 6, 1536),
    "gpt2-50m": Shape("gpt2", 640, 9, 10, 2560),
    "gpt2-150m": Shape("gpt2", 896, 14, 14, 3584),
}
"""Sizes by name, 1 M to 150 M parameters."""


@dataclass(frozen=True)
class ModelConfig(Settings):
    """A small decoder-only transformer.

    Attributes:
        preset: One of ``llama-1m`` … ``gpt2-150m``, which decides kind, width, depth and heads; empty takes the fields
            below.
        kind: ``llama`` (rotary positions, RMS norms, gated MLP) or ``gpt2`` (learned positions, layer norms).
        vocab_size: Tokens of the BPE tokenizer, special ones included.
        hidden_size: Width.
        num_layers: Depth.
        num_heads: Attention heads; must divide the width.
        intermediate_size: Width of the MLP.
        context: Longest sequence in tokens.
        split_digits: Give every digit a token of its own, for arithmetic.

    Raises:
        ConfigError: If the heads do not divide the width, or preset or kind are unknown.
    """

    preset: str = ""
    kind: Literal["llama", "gpt2"] = "llama"
    vocab_size: PositiveInt = 8192
    hidden_size: PositiveInt = 256
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 704
    context: PositiveInt = 128
    split_digits: bool = False

    def __post_init__(self) -> None:
        if self.preset:
            if self.preset not in PRESETS:
                raise ConfigError(f"there is no preset {self.preset!r}; there are: {', '.join(PRESETS)}")
            for name, value in PRESETS[self.preset]._asdict().items():
                object.__setattr__(self, name, value)
        super().__post_init__()
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"`num_heads` ({self.num_heads}) must divide `hidden_size` ({self.hidden_size})")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, split_digits: bool = False) -> Any:
    """Train a byte-level BPE tokenizer; pad, begin and end are three different tokens.

    Args:
        texts: Training texts only; any iterable, it is never held as a whole.
        vocab_size: Size of the vocabulary, special tokens included.
        split_digits: Give every digit a token of its own.

    Returns:
        A transformers fast tokenizer that puts the begin token before every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, by_bytes]) if split_digits else by_bytes
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
    """A freshly initialised model for a tokenizer.

    Args:
        config: Kind and size; the vocabulary is the tokenizer's.
        tokenizer: Gives the special ids.
        seed: Of the initialisation; the global generator is left as it was.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(tokenizer),
                    n_embd=config.hidden_size,
                    n_layer=config.num_layers,
                    n_head=config.num_heads,
                    n_inner=config.intermediate_size,
                    n_positions=config.context,
                    **special,
                )
            )
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
                **special,
            )
        )
