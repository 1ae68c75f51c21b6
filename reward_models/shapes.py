"""Which kind of reward model stands in a folder, read from its configuration and the names of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from textenv.errors import CheckpointError, ConfigError

SIDE_FILE = "reward_model.json"

HEAD_NAMES = ("v_head.summary", "value_head", "reward_head", "regression_head", "v_head")
"""Names of a linear head beside a language model's weights, as TRL, OpenRLHF, UltraRM and others call it."""

_ELSEWHERE = (
    "score with its own code and read the scores over HTTP (`http://…` or `openrlhf+http://…`), or name a Python "
    "function that calls it (`module:function`)"
)


def kind_of_folder(folder: Path) -> str:
    """``sequence``, ``uncertain``, ``classifier``, ``scalar_head`` or ``token_process``: what reads a folder's model.

    Raises:
        CheckpointError: If a file cannot be read, or the model needs code of its own.
        ConfigError: If it is a language model without any head for rewards.
    """
    if (folder / SIDE_FILE).is_file():
        side = read_json(folder / SIDE_FILE)
        return str(side.get("kind", "sequence"))
    if not (folder / "config.json").is_file():
        return "sequence"  # whose reader says what is missing
    refuse_own_code(folder)
    config = read_json(folder / "config.json")
    name = _architecture(config)
    if name.endswith("ForTokenClassification"):
        return "token_process"
    if head_name(folder, config) is not None:
        return "scalar_head"
    if name.endswith("ForSequenceClassification") or "score.weight" in tensor_files(folder):
        outputs = head_outputs(folder) or len(config.get("id2label") or "ab")
        return "sequence" if outputs == 1 else "classifier"
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        raise ConfigError(
            f"`{folder}` is a language model ({name}) without a head for rewards: train one on it "
            '(`SequenceRewardModel.from_trunk`), or say how it judges: {"kind": "dpo", "policy": …} or '
            '{"kind": "rating_judge", "path": …}'
        )
    return "sequence"


def refuse_own_code(folder: Path) -> None:
    """Refuse a model of a class that transformers does not have.

    Raises:
        CheckpointError: Naming the class, and what can be done.
    """
    import transformers

    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    name = _architecture(config)
    if not name or hasattr(transformers, name):
        return
    own = "code of its own (`auto_map`), which is not run" if config.get("auto_map") else "a class that nobody has here"
    head = head_name(folder, config)
    if config.get("auto_map") or (head is None and "score.weight" not in tensor_files(folder)):
        linear = f'; if its code only puts {head} on the last token, {{"kind": "scalar_head", "path": …}} reads it'
        raise CheckpointError(f"`{folder}` is made for {name}, {own}: {_ELSEWHERE}{linear if head else ''}")


def head_name(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Name of the linear value head among a folder's weights, without ``.weight``; None where there is none.

    Raises:
        CheckpointError: If a file cannot be read, or the head has several layers.
    """
    names = set(tensor_files(folder))
    prefix = config.get("value_head_prefix")
    for stem in (*([str(prefix)] if prefix and prefix != "score" else []), *HEAD_NAMES):
        if f"{stem}.weight" in names:
            return stem
    layers = sorted(name for name in names if name.startswith("v_head.summary.") or name.startswith("value_head."))
    if layers:
        raise CheckpointError(f"`{folder}` has a head of several layers ({', '.join(layers)}): {_ELSEWHERE}")
    return None


def head_outputs(folder: Path) -> int | None:
    """Outputs of the classifier's head, where its weights say another number than the configuration.

    OpenRLHF's folders have one output and no word of it in ``config.json``, which means two to transformers.
    """
    files = tensor_files(folder)
    if "score.weight" not in files:
        return None
    with safe_open(files["score.weight"], framework="pt") as tensors:
        outputs = int(tensors.get_slice("score.weight").get_shape()[0])
    labels = read_json(folder / "config.json").get("id2label") or {"0": "", "1": ""}
    return None if len(labels) == outputs else outputs


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which safetensors file of a folder holds each of its weights; empty where none can be read."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= dict.fromkeys(tensors.keys(), file)
        except (OSError, SafetensorError):
            continue  # loading the model says what is wrong with it
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: If there is none.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read `{path}`: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"cannot read `{path}`: it is no JSON object.")
    return found


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or [""])[0])
