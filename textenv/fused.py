"""Norms and gates of Llama-like blocks in one pass over memory each, for training on CPUs.

As torch operators they take a dozen passes, and a third of the time of an update. The compiled helpers
(:mod:`textenv.kernels`) round once, at the end, where the operators round after each step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from textenv.kernels import kernels, required_kernels


def fuse(model: nn.Module) -> int:
    """Let the root-mean-square norms and SiLU-gated blocks of a model run fused.

    Only modules whose first example of a class gives the same numbers fused as before are changed, and those only in
    their class: copies of the model keep it, the weights stay where they are.

    Args:
        model: Changed in place; on the CPU. Modules that are neither float32 nor bfloat16 are left alone.

    Returns:
        How many modules were changed; 0 without the compiled helpers.
    """
    if kernels() is None:
        return 0
    changed = 0
    verdicts: dict[type, type | None] = {}
    for module in model.modules():
        if hasattr(module, "original_module"):  # an adapter's wrapper lends the attributes of the module inside it
            continue
        kind = type(module)
        if kind not in verdicts:
            verdicts[kind] = _fused_class(module)
        fused = verdicts[kind]
        if fused is not None:
            module.__class__ = fused
            changed += 1
    return changed


@torch.no_grad()
def _fused_class(module: Any) -> type | None:
    """The class that computes what this module does in one pass; None if it is of another kind."""
    kind = type(module)
    if hasattr(module, "variance_epsilon") and isinstance(getattr(module, "weight", None), nn.Parameter):
        fused, width = _norm_class(kind), module.weight.shape[-1]
        reference = module.weight
    elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")) and _is_silu(module):
        reference = module.gate_proj.weight
        fused, width = _gate_class(kind), reference.shape[1]
    else:
        return None
    if reference.dtype not in (torch.float32, torch.bfloat16):
        return None
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(reference.dtype)
    expected = module(x)
    found = fused.forward(module, x)  # type: ignore[attr-defined]  # made below with this method
    close = torch.allclose(found.float(), expected.float(), rtol=0.05, atol=0.02 * float(expected.float().std()))
    return fused if close else None


def _is_silu(module: Any) -> bool:
    return isinstance(getattr(module, "act_fn", None), nn.SiLU) or type(getattr(module, "act_fn", None)).__name__ == (
        "SiLUActivation"
    )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        ctx.eps = eps
        return required_kernels().rms_norm(rows, weight, eps).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]  # @once_differentiable
        (by_out,) = grad_outputs
        rows, weight = ctx.saved_tensors
        by_x, by_weight = required_kernels().rms_norm_gradient(rows, weight, by_out.contiguous(), ctx.eps)
        return by_x.view(by_out.shape), by_weight, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return required_kernels().gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]  # @once_differentiable
        (by_out,), (gate, up) = grad_outputs, ctx.saved_tensors
        return required_kernels().gated_gradient(gate, up, by_out.contiguous())


@cache
def _norm_class(kind: type) -> type:
    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.dtype != self.weight.dtype:
            return kind.forward(self, hidden_states)
        return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[return-value]

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})


@cache
def _gate_class(kind: type) -> type:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(_Gate.apply(self.gate_proj(x), self.up_proj(x)))

    return type(f"Fused{kind.__name__}", (kind,), {"forward": forward})
