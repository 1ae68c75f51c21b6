"""Our half of the check with rewardbench: makes tiny models and a small file, and scores the file.

Runs where our own versions are installed; ``check_rewardbench`` starts it as a process of its own, because rewardbench
pins a version of transformers that is older than ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from reward_models import SequenceRewardModel

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "user", "assistant", ":", *(f"w{i}" for i in range(60))]
CHAT = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s>{% endfor %}"
PLAIN_CHAT = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
POSITIONS = 256
SHORT = 40
"""Longest input where texts are cut."""


def write_tokenizer(folder: Path, *, begins: bool, template: str) -> None:
    """A word tokenizer with a chat template, in a form that old and new transformers read."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    single = "<s> $A" if begins else "<s> $A </s>"
    specials = [("<s>", 2), ("</s>", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=single, special_tokens=specials
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text("utf-8"))
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    config.write_text(json.dumps(settings), encoding="utf-8")


def write_models(folder: Path) -> None:
    """A Llama whose template and tokenizer both begin the text, and a BERT."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": POSITIONS}
    llama = LlamaConfig(
        **common, num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.15
    )
    llama.num_labels = 1
    bert = BertConfig(**common, pad_token_id=0, initializer_range=0.15)
    bert.num_labels = 1
    for name, model in (
        ("llama", LlamaForSequenceClassification(llama)),
        ("bert", BertForSequenceClassification(bert)),
    ):
        model.save_pretrained(folder / name)
        write_tokenizer(folder / name, begins=name == "llama", template=CHAT if name == "llama" else PLAIN_CHAT)


def write_pairs(path: Path) -> list[dict[str, Any]]:
    """Forty pairs of different lengths, some longer than what is read; one pair of equal answers."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(40):
        sizes = rng.integers(1, 60, 3) if number % 4 else rng.integers(1, 12, 3)
        prompt, chosen, rejected = (" ".join(f"w{i}" for i in rng.integers(0, 60, size)) for size in sizes)
        rejected = chosen if number == 7 else rejected
        user = {"role": "user", "content": prompt}
        turns = [[user, {"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
        pairs.append({"id": number, "chosen": turns[0], "rejected": turns[1]})
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return pairs


def main() -> None:
    """Write models and pairs into the folder that is named, and ``ours.json`` with our scores."""
    folder = Path(sys.argv[1])
    write_models(folder)
    pairs = write_pairs(folder / "pairs.jsonl")
    prompts = [pair["chosen"][0]["content"] for pair in pairs]
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("llama", "bert"):
        for side, max_tokens in (("whole", POSITIONS), ("left", SHORT), ("right", SHORT)):
            rm = SequenceRewardModel.from_pretrained(
                folder / name,
                template="chat",
                max_tokens=max_tokens,
                add_special_tokens=True,  # as rewardbench does, around chats too
                truncation_side="left" if side == "whole" else side,  # pyright: ignore[reportArgumentType]
            )
            found[f"{name} {side}"] = {
                answer: rm.score(prompts, [pair[answer][-1]["content"] for pair in pairs]).tolist()
                for answer in ("chosen", "rejected")
            }
    (folder / "ours.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
