"""Float32 weights for the optimiser and the disk, a bfloat16 copy for the arithmetic.

On CPUs with bfloat16 matrix units the products are several times faster in bfloat16, but ``torch.autocast`` spends the
gain on casting weights and activations back and forth (measured on a 4 M-parameter model, 64 × 28 tokens, forward and
backward: float32 0.24 s, autocast 0.6 s, this copy 0.12 s). Attention runs in its plain form on CPU: the fused kernel's
bfloat16 backward takes four times as long as all other attention work on short sequences.

What a low precision cannot hold stays in float32, as in transformers: buffers, rotary frequencies first of all (rounded
to bfloat16, positions near 1,000 turn by up to a radian too much), and the weights that a model names for it.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal

import torch

from textenv.errors import ConfigError
from textenv.fused import fuse

_log = logging.getLogger(__name__)

LOW_PRECISION = (torch.bfloat16, torch.float16)


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


def compute_dtype(dtype: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype | None:
    """What a :class:`ComputeCopy` is to compute in; None needs no copy.

    Args:
        dtype: ``auto`` is bfloat16 where the hardware is fast at it.
        device: Where it computes.
    """
    low = fast_bf16(device) if dtype == "auto" else dtype == "bfloat16"
    return torch.bfloat16 if low else None


def lower(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's weights, in place, but for what transformers keeps in float32 too.

    Buffers stay as they are, unless they are tables that transformers itself makes in the model's type (and adds to the
    activations).

    Args:
        model: With weights in float32.
        dtype: What they get.
    """
    kept = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept += list(getattr(model, "_keep_in_fp32_modules", None) or ())

    def is_kept(name: str) -> bool:
        return any(f".{part}." in f".{name}." for part in kept)

    for name, p in model.named_parameters():
        if p.is_floating_point() and not is_kept(name):
            p.data = p.data.to(dtype)
    tables = {n: b for n, b in model.named_buffers() if b.is_floating_point() and b.dim() and "inv_freq" not in n}
    own = _own_buffer_types(model, dtype) if tables else {}
    for name, buffer in tables.items():
        if own.get(name) == dtype and not is_kept(name):
            buffer.data = buffer.data.to(dtype)


def _own_buffer_types(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The types that transformers gives a model's buffers, by name; nothing of other models."""
    if not hasattr(model, "_from_config"):
        return {}
    with torch.device("meta"):
        made = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    return {name: buffer.dtype for name, buffer in made.named_buffers()}


def float32_masters(model: torch.nn.Module) -> torch.dtype | None:
    """Make a model's weights that train float32, in place: an optimiser's steps are too small for a lower precision.

    Args:
        model: As it was handed in. One with nothing to train (a reference) is left as it is, and so are bfloat16
            weights that do not train (below an adapter).

    Returns:
        ``torch.bfloat16`` where a copy in bfloat16 should compute, as the model did; None where it should compute with
        its own weights. So it is for float16, whose gradients would vanish without loss scaling.
    """
    found = {p.dtype for p in model.parameters() if p.dtype in LOW_PRECISION}
    if not found or not any(p.requires_grad for p in model.parameters()):
        return None
    compute = torch.bfloat16 if found == {torch.bfloat16} else None
    changed = [p for p in model.parameters() if p.dtype in LOW_PRECISION and (p.requires_grad or compute is None)]
    for p in changed:
        p.data = p.data.float()
    restore_buffers(model)
    if changed:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        _log.warning("the model came in %s; its weights that train are float32 from now on", names)
    return compute


def restore_buffers(model: Any) -> None:
    """Bring back what casting a whole model has rounded: buffers that follow from its configuration alone."""
    owner = next((m for m in model.modules() if hasattr(m, "_init_weights") and hasattr(m, "config")), None)
    for module in model.modules():
        low = [b for b in module.buffers(recurse=False) if b.dtype in LOW_PRECISION]
        if not low:
            continue
        for buffer in low:
            buffer.data = buffer.data.float()
        if owner is not None and not list(module.parameters(recurse=False)):
            owner._init_weights(module)


def placed(model: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's weights stand, and in what type."""
    first = next(model.parameters())
    return first.device, first.dtype


def refuse_low_precision(apply: Any, model: torch.nn.Module) -> None:
    """Keep ``module.half()`` and the like from rounding weights that train.

    Args:
        apply: What is about to be done to each tensor.
        model: To whom.

    Raises:
        ConfigError: If it would lower their precision.
    """
    if apply(torch.zeros(())).dtype in LOW_PRECISION and any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            "weights that train stay in float32; to compute in bfloat16 load the model with `dtype='bfloat16'`, or "
            "give `compute_dtype=torch.bfloat16`"
        )


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
            self.model = copy.deepcopy(model, shared)
            lower(self.model, dtype)
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
