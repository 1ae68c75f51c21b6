"""NEFTune: uniform noise on the embeddings of training inputs.

Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from agents.lm.batches import Batch, own_lengths


@contextmanager
def noisy_embeddings(model: Any, batch: Batch, alpha: float, seed: tuple[int, int, int]) -> Iterator[None]:
    """Inside this context every embedded token of a batch has noise of at most α/√(length · width) in each component.

    Args:
        model: Its input embedding is hooked while the context lasts.
        batch: What will pass; the length is that of each token's own sequence, packed or not.
        alpha: α; 0 adds nothing.
        seed: Seed, step and part of the step: the same numbers give the same noise.
    """
    if alpha == 0:
        yield
        return
    generator = torch.Generator().manual_seed((seed[0] * 1_000_003 + seed[1]) * 1_009 + seed[2])
    lengths = own_lengths(batch)

    def add(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        width = output.shape[-1]
        uniform = torch.rand(output.shape, generator=generator) * 2 - 1
        scale = alpha / torch.sqrt(lengths[:, : output.shape[1], None].float() * width)
        return output + (uniform.to(output.device) * scale).to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
