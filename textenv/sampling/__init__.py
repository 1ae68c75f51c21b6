"""Sampling: settings, draws with exact log-probabilities, and the KV-cached slot engine.

``SamplingParams`` needs neither torch nor transformers; the rest loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textenv.sampling.params import SamplingParams

if TYPE_CHECKING:
    from textenv.sampling.generation import generate, stream
    from textenv.sampling.methods import (
        BeamSearch,
        BestOfN,
        BranchingTree,
        Cost,
        MethodResult,
        PowerSampling,
        RejectionSampling,
        SequentialMonteCarlo,
        Vine,
        prefix_returns,
    )
    from textenv.sampling.next_token import CachedLogprobs
    from textenv.sampling.sampler import Draw, draw, trajectory_uniforms
    from textenv.sampling.slots import SlotEngine

__all__ = [
    "BeamSearch",
    "BestOfN",
    "BranchingTree",
    "CachedLogprobs",
    "Cost",
    "Draw",
    "MethodResult",
    "PowerSampling",
    "RejectionSampling",
    "SamplingParams",
    "SequentialMonteCarlo",
    "SlotEngine",
    "Vine",
    "draw",
    "generate",
    "prefix_returns",
    "stream",
    "trajectory_uniforms",
]

_HOMES = {
    **dict.fromkeys(
        (
            "BeamSearch",
            "BestOfN",
            "BranchingTree",
            "Cost",
            "MethodResult",
            "PowerSampling",
            "RejectionSampling",
            "SequentialMonteCarlo",
            "Vine",
            "prefix_returns",
        ),
        "textenv.sampling.methods",
    ),
    "CachedLogprobs": "textenv.sampling.next_token",
    "Draw": "textenv.sampling.sampler",
    "draw": "textenv.sampling.sampler",
    "generate": "textenv.sampling.generation",
    "stream": "textenv.sampling.generation",
    "trajectory_uniforms": "textenv.sampling.sampler",
    "SlotEngine": "textenv.sampling.slots",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
