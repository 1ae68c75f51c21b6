"""Which weights are trained: all of them, all but the word embeddings, or a LoRA adapter that is merged afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from reward_models.training.config import RewardModelConfig
from textenv.errors import MissingDependencyError
from textenv.mixed_precision import float32_masters


@contextmanager
def trainable(rm: Any, config: RewardModelConfig) -> Iterator[None]:
    """The model ready to be trained; afterwards it is a plain one again, with an adapter merged into its weights.

    Raises:
        MissingDependencyError: If an adapter is asked for and peft is not installed.
    """
    plain = rm.model
    before = {name: weight.requires_grad for name, weight in plain.named_parameters()}
    plain.requires_grad_(True)
    float32_masters(plain)
    if config.lora_rank:
        rm.model = _with_adapter(plain, config)
    elif config.freeze_embeddings:
        plain.get_input_embeddings().weight.requires_grad_(False)
    try:
        yield
    finally:
        if config.lora_rank:
            rm.model = rm.model.merge_and_unload().eval()
        for name, weight in rm.model.named_parameters():
            weight.requires_grad_(before.get(name, True))
            weight.grad = None


def _with_adapter(model: Any, config: RewardModelConfig) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear"
    )
    # peft draws an adapter's first weights from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return get_peft_model(model, settings).eval()
