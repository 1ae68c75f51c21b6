"""Tokenizers of the kinds that models come with, trained here on a few lines, each with its begin and end tokens."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "the old film is good. the new one is bad!",
    "a fine café, isn't it? naïve über",
    "user: hi assistant: yes",
] * 4
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}<|eot|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|eot|>"]
KINDS = ("byte level", "metaspace", "prepend", "unigram", "wordpiece")


@cache
def _backend(kind: str) -> str:
    alphabet = sorted({c for text in TEXTS for c in text.replace(" ", "▁")})
    options: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    if kind == "byte level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=330, **options)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=120, **options)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **options)
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=120, initial_alphabet=alphabet, **options)
    else:  # as Llama 2's: a blank is prepended to every text, unknown characters fall back to bytes
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        options["special_tokens"] = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, **options)
    tokenizer.train_from_iterator(TEXTS, trainer)
    ends = "" if kind != "wordpiece" else " </s>"  # which puts a token after a text, as BERT's does
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{ends}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in SPECIAL]
    return json.dumps(described)  # bytes are ordinary tokens


def make_tokenizer(kind: str, **options: Any) -> Any:
    """A tokenizer of a kind, new on every call: policies declare what their answers are on it."""
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(kind)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        **options,
    )
    found.add_special_tokens({"additional_special_tokens": ["<|eot|>"]})
    return found


def holed() -> Any:
    """A tokenizer whose ids have gaps: 6 to 8 and 10 are no tokens."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "c": 9, "d": 11}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
