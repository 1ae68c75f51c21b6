"""How much of the hardware training uses: operations per token, and the rate that matrix products reach here."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch

_SIZE = 1024
_SECONDS = 0.2


def flops_per_token(model: Any, context: int) -> float:
    """Floating-point operations of a training step per token, forward and backward.

    6 for every weight of a matrix that multiplies (embedding look-ups do not; a tied output embedding does), and
    12 · layers · width · context for attention scores and sums over a full context.

    Args:
        model: A transformers causal LM.
        context: Tokens that a token can see.

    Source: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B.
    """
    inputs, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p is not inputs and p is not output)
    positions = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight is not inputs]
    matrices += output.numel() - sum(m.weight.numel() for m in positions)
    config = model.config
    return 6.0 * matrices + 12.0 * config.num_hidden_layers * inputs.shape[1] * context


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Floating-point operations a second that products of 1024 × 1024 matrices reach on this machine, as it is now.

    Args:
        device: Where.
        dtype: Of the matrices.
        threads: CPU threads; part of the cache's key.
    """
    a, b = (torch.ones(_SIZE, _SIZE, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    began = time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        float((a @ b)[0, 0])  # reading one number waits for the device
        best = max(best, 2.0 * _SIZE**3 / (time.perf_counter() - start))
    return best


def utilization(model: Any, context: int, tokens_per_second: float, dtype: torch.dtype) -> float:
    """Model FLOP utilisation: the share of the rate of matrix products that training reaches."""
    device = model.get_input_embeddings().weight.device
    return tokens_per_second * flops_per_token(model, context) / matmul_rate(device, dtype, torch.get_num_threads())
