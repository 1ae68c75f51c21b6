"""Parts of a transformer's trunk: which layers are frozen, and which recompute their activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from textenv.errors import ConfigError
from textenv.sampling.models import trunk_of


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of layers of a decoder-only model, the lowest first.

    Raises:
        ConfigError: If the model is of another kind.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    parts = [] if model.config.is_encoder_decoder else trunk_of(model).modules()
    stacks = [m for m in parts if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise ConfigError(f"{type(model).__name__} has no single stack of decoder layers to freeze or divide")
    return stacks[0]


def freeze_lower_layers(model: Any, count: int) -> None:
    """Stop training the input embeddings and the lowest layers of a decoder-only model.

    Args:
        model: Transformers model without an adapter.
        count: How many layers.

    Raises:
        ConfigError: If the model has an adapter or not that many layers.
    """
    if hasattr(model, "disable_adapter"):
        raise ConfigError("`frozen_layers` and `lora` exclude each other: with LoRA only the adapter is trained")
    layers = decoder_layers(model)
    if not 0 < count <= len(layers):
        raise ConfigError(f"`frozen_layers` must lie between 0 and the model's {len(layers)} layers, got {count}")
    model.get_input_embeddings().requires_grad_(False)
    for layer in layers[:count]:
        layer.requires_grad_(False)


def checkpointed_layers(model: Any) -> list[Any]:
    """Make a model's layers ready to recompute their activations; they do so inside :func:`recomputing`.

    Raises:
        ConfigError: If the model cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(f"{type(model).__name__} does not support `gradient_checkpointing`")
    for layer in layers:  # what transformers' own switch does, under whatever name a version gives it
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    return layers


@contextmanager
def recomputing(stacks: Sequence[Sequence[Any]]) -> Iterator[None]:
    """Let layers drop their activations inside this context, where gradients are taken at all.

    Transformers ties this to training mode. Only the layers themselves are put into it: the modules inside them, and so
    their dropout, stay as they are.
    """
    layers = [layer for stack in stacks for layer in stack] if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
