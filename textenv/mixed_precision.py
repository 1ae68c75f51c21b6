"""Float32 weights for the optimiser and the disk, a bfloat16 copy for the arithmetic.

On CPUs with bfloat16 matrix units the products are several times faster in bfloat16, but ``torch.autocast`` spends the
gain on casting weights and activations back and forth (measured on a 4 M-parameter model, 64 × 28 tokens, forward and
backward: float32 0.24 s, autocast 0.6 s, this copy 0.12 s). Attention runs in its plain form on CPU: the fused kernel's
bfloat16 backward takes four times as long as all other attention work on short sequences.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from textenv.fused import fuse


def round_up(size: int, multiple: int) -> int:
    """The next multiple: shapes that repeat let the CPU's bfloat16 kernels, compiled per shape, be used again."""
    return -(-size // multiple) * multiple


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Older versions of torch cannot tell; float32 is right everywhere.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class ComputeCopy:
    """A low-precision twin of a model that does the forward and backward passes.

    Args:
        model: Transformers model with float32 weights; optimised and saved by the caller.
        dtype: ``torch.bfloat16``; None copies no weight.
        fused: Without ``dtype``, on CPUs: compute with a twin that has the model's own weights and fused norms and
            gates (:mod:`textenv.fused`); else :attr:`model` is the model itself.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None, *, fused: bool = False) -> None:
        self.dtype = dtype
        self._master = model
        self.model = model
        on_cpu = next(model.parameters()).device.type == "cpu"
        if dtype is not None:
            # Weights that are not trained and have the right type already (a LoRA policy's trunk) are not copied.
            shared = {id(p): p for p in model.parameters() if not p.requires_grad and p.dtype == dtype}
            self.model = copy.deepcopy(model, shared).to(dtype)
            if on_cpu:
                self.model.set_attn_implementation("eager")
                fuse(self.model)
        elif fused and on_cpu:
            twin = copy.deepcopy(model, {id(each): each for each in (*model.parameters(), *model.buffers())})
            self.model = twin if fuse(twin) else model
        self._pairs = [
            (master, twin)
            for master, twin in zip(model.parameters(), self.model.parameters(), strict=True)
            if master is not twin
        ]

    def pull_gradients(self) -> None:
        """Add the copy's gradients to the float32 model's, and clear them: call it after each backward pass."""
        for master, twin in self._pairs:
            if twin.grad is None:
                continue
            if master.grad is None:
                master.grad = twin.grad.to(master.dtype)
            else:
                master.grad.add_(twin.grad)
            twin.grad = None

    @torch.no_grad()
    def push_weights(self) -> None:
        """Round the float32 weights into the copy: call it after each optimiser step and after loading."""
        for master, twin in self._pairs:
            twin.copy_(master)
