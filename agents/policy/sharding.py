"""Weights, gradients and optimiser state divided among processes (FSDP2), under ``accelerate launch --use_fsdp``.

Log-probs and updates gather one layer at a time. Rollouts gather all layers once, because processes take different
numbers of decode steps; while they last, every process holds the policy's weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from agents.policy.forward import SequenceBatch
from agents.policy.model import CausalLMPolicy
from agents.policy.trunks import decoder_layers
from textenv.errors import ConfigError
from textenv.training.world import World


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
