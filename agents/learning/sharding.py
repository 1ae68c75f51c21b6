"""Weights, gradients and optimiser state divided among processes (FSDP2), under ``accelerate launch --use_fsdp``.

Log-probs and updates gather one layer at a time. Rollouts gather all layers once, because processes take different
numbers of decode steps; while they last, every process holds the policy's weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from agents.forward import SequenceBatch
from agents.learning.world import World
from agents.policy import CausalLMPolicy
from agents.trunks import decoder_layers
from textenv.errors import ConfigError


def wanted(world: World) -> bool:
    """Whether the launcher asked for it and there is somebody to share with."""
    return world.size > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1", "yes")


def shard(policy: CausalLMPolicy, world: World) -> None:
    """Divide a policy's weights, those of a critic of its own included; before an optimiser is made.

    Raises:
        ConfigError: If the policy computes with a copy of its weights, or they have several data types.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if policy.compute.dtype is not None or len({p.dtype for p in policy.parameters()}) > 1:
        raise ConfigError(
            "FSDP needs weights of one data type without a compute copy; load the policy with dtype='float32', or "
            "launch without --use_fsdp"
        )
    mesh = init_device_mesh(policy.device.type, (world.size,))
    trunks = [policy.causal_lm, *([policy.critic.trunk] if policy.critic is not None else [])]
    for layer in (layer for trunk in trunks for layer in decoder_layers(trunk)):
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh, reshard_after_forward=True)  # parameters are whole only while they are used
    register_fsdp_forward_method(policy, "evaluate")
    with torch.no_grad():  # the first module to run becomes the root
        policy.evaluate(SequenceBatch.from_ids([[0]], [[0]], device=policy.device))


@contextmanager
def whole(policy: CausalLMPolicy, world: World) -> Iterator[None]:
    """Inside this context each process holds all weights of a policy, and no forward pass waits for another process."""
    if not world.sharded:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    modules = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may hold a part; all processes call it together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def place_like(parameter: torch.Tensor, saved: torch.Tensor) -> torch.Tensor:
    """A whole tensor, divided as a parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or saved.shape != parameter.shape:
        return saved
    return distribute_tensor(saved.to(parameter.device), parameter.device_mesh, parameter.placements)


def place_state(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Saved optimiser state (``optimizer/<parameter index>/<name>``), divided as the parameters are."""
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    placed: dict[str, Any] = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            placed[name] = place_like(parameters[int(name.split("/")[1])], tensor)
    return placed
