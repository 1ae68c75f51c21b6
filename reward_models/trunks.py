"""Trunks for reward models: a pre-trained transformers model, turned into a sequence classifier with one label.

Only safetensors weights are read and no remote code is run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from textenv.envs.tokenizers import read_tokenizer
from textenv.errors import CheckpointError, ConfigError
from textenv.sampling.models import trial, trunk_of


def load_pretrained(folder: Path) -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer from a folder.

    Raises:
        CheckpointError: If the folder is missing or cannot be read, or lacks weights of the head.
    """
    model, tokenizer, missing = _load(folder, num_labels=None)
    if missing:
        raise CheckpointError(f"`{folder}` lacks the weights {sorted(missing)}: it is a trunk; use `from_trunk`.")
    return model, tokenizer


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
        model, own, missing = _load(Path(trunk), num_labels=1)
        tokenizer = own if tokenizer is None else tokenizer
    else:
        if tokenizer is None:
            raise ConfigError("a loaded trunk needs its `tokenizer`.")
        model, missing = _from_model(trunk)
    model.config.pad_token_id = tokenizer.pad_token_id
    _initialise(model, missing, torch.Generator().manual_seed(seed))
    return model, tokenizer


def _load(folder: Path, *, num_labels: int | None) -> tuple[Any, Any, set[str]]:
    """Model, tokenizer and the names of weights that the folder does not have."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"`{folder}` is not a model folder: it has no config.json.")
    try:
        config = AutoConfig.from_pretrained(folder)
        if num_labels is not None:
            config.num_labels = num_labels
        with quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = read_tokenizer(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the model in `{folder}`: {error}") from error
    return model, tokenizer, set(info["missing_keys"])


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


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its table of new weights: a fresh head is what was asked for."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
