"""Trunks for reward models: a pre-trained transformers model, turned into a sequence classifier with one label.

Only safetensors weights are read and no remote code is run.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from reward_models.shapes import head_outputs, refuse_own_code
from textenv.answers import declare_format, format_of_folder
from textenv.errors import CheckpointError, ConfigError
from textenv.pretrained import find_folder, load_model, load_tokenizer
from textenv.sampling.models import trial, trunk_of

_HEADS = r"^(score|classifier|classification_head|pre_classifier|qa_outputs|head|pooler)\b|\bpooler\."
"""Weights that a classifier has and its trunk has not; the pooler of an encoder is fresh where its trunk had none."""


def load_pretrained(folder: Path, *, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer from a folder.

    Raises:
        CheckpointError: If the folder is missing or cannot be read, or its weights are not the classifier's.
    """
    refuse_own_code(folder)
    model, fresh = load_model(folder, "classifier", device=device, num_labels=head_outputs(folder), may_lack=_HEADS)
    if fresh:
        raise CheckpointError(f"`{folder}` lacks the weights {sorted(fresh)}: it is a trunk; use `from_trunk`.")
    return model, read_tokenizer(folder)


def read_tokenizer(folder: Path, tokenizer: Any = None) -> Any:
    """The tokenizer in a model's folder, or the given one; it knows the answer format that stands beside the model.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    tokenizer, answer = load_tokenizer(folder) if tokenizer is None else tokenizer, format_of_folder(folder)
    if answer is not None:
        declare_format(tokenizer, answer)
    return tokenizer


def load_trunk(trunk: str | Path | Any, tokenizer: Any, *, seed: int) -> tuple[Any, Any]:
    """A sequence classifier with a fresh head on a pre-trained trunk, and its tokenizer.

    Args:
        trunk: A folder, or a loaded transformers model, which is not changed.
        tokenizer: Needed for a loaded model; for a folder None reads its own.
        seed: Decides every weight that the trunk does not bring.

    Raises:
        CheckpointError: If the folder cannot be read.
        ConfigError: If a loaded model comes without a tokenizer, or cannot become a classifier.
    """
    if isinstance(trunk, str | Path):
        folder = find_folder(trunk)
        model, missing = load_model(folder, "classifier", num_labels=1, may_lack=_HEADS)
        tokenizer = read_tokenizer(folder, tokenizer)
    else:
        if tokenizer is None:
            raise ConfigError("a loaded trunk needs its `tokenizer`.")
        model, missing = _from_model(trunk)
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _initialise(model, set(missing), torch.Generator().manual_seed(seed))
    return model, tokenizer


def _from_model(source: Any) -> tuple[Any, set[str]]:
    """A float32 classifier with the weights of a loaded model of the same family.

    Raises:
        ConfigError: If transformers has no classifier of that family, or one with another trunk.
    """
    # Building draws throw-away weights; the caller's generator must not notice.
    with trial(source, "cannot become a sequence classifier"), torch.random.fork_rng(devices=[]):
        config = copy.deepcopy(source.config)
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config).float()
        trunk = model.base_model
        missing = trunk.load_state_dict(trunk_of(source).state_dict(), strict=False).missing_keys
    inside = {f"{model.base_model_prefix}.{name}" for name in missing}
    prefix = f"{model.base_model_prefix}."
    return model, inside | {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


@torch.no_grad()
def _initialise(model: Any, names: set[str], generator: torch.Generator) -> None:
    """Draw weight matrices from N(0, 1/sqrt(inputs + 1)) and zero the vectors, in the order of the names."""
    for name in sorted(names):
        weight = model.get_parameter(name)
        if weight.ndim < 2:
            weight.zero_()
        else:
            weight.normal_(0.0, 1 / math.sqrt(weight.shape[-1] + 1), generator=generator)
