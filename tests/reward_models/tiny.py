"""Tiny randomly initialised trunks with word tokenizers, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from textenv.datasets import builtin_ratings, prompt_and_response


def word_tokenizer(texts: Sequence[str], *, encoder: bool) -> PreTrainedTokenizerFast:
    """A lower-casing word tokenizer; for an encoder with [CLS] and [SEP] around each text."""
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Whitespace()
    words = {w for text in texts for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    if encoder:
        specials = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def builtin_tokenizer(*, encoder: bool) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of the built-in generator."""
    cuts = [prompt_and_response(item) for item in builtin_ratings(800)]
    return word_tokenizer([cut.prompt + cut.response for cut in cuts], encoder=encoder)


def tiny_bert(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 32, layers: int = 1) -> Any:
    """An encoder of about 30 k parameters; dropout as BERT has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=2,
                intermediate_size=2 * hidden,
                max_position_embeddings=64,
            )
        )


def tiny_llama(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 32) -> Any:
    """A causal LM of about 20 k parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                intermediate_size=2 * hidden,
                max_position_embeddings=64,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=3,
                tie_word_embeddings=True,
            )
        )


def save_trunk(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A trunk's folder as plain transformers writes it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's."""
    found: Any = spearmanr(one, other)
    return float(found.statistic)
