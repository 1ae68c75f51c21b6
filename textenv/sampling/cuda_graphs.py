"""Decode steps recorded once per shape and replayed (CUDA graphs): a small model's step on a GPU is all launch time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from textenv.sampling.cache import Block, SlotCache
from textenv.sampling.packed_decoding import PackedDecoder

Recorder = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]


def record_cuda_graph(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Record what ``run`` launches on the GPU; returns what replays it, and the tensor that then holds its result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # libraries choose and load their kernels
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


class _Recording(NamedTuple):
    block: Block
    replay: Callable[[], None]
    result: torch.Tensor


class RecordedSteps:
    """The decode steps of one cache, one recording per shape.

    Args:
        decoder: Computes.
        cache: Is written to and read.
        record: Makes a recording.
    """

    def __init__(self, decoder: PackedDecoder, cache: SlotCache, record: Recorder = record_cuda_graph) -> None:
        self._decoder, self._cache, self._record = decoder, cache, record
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._addresses: list[int] = []

    def hidden(self, block: Block) -> torch.Tensor:
        """Hidden states ``(b, 1, D)`` of a step; they hold until the next one of this shape."""
        addresses = self._decoder.addresses()
        if addresses != self._addresses:  # weights have moved: recordings would read the old ones
            self._recordings.clear()
            self._addresses = addresses
        shape = (len(block.tokens), block.visible.shape[-1])
        if shape not in self._recordings:
            copied = replace(block, **{name: tensor.contiguous().clone() for name, tensor in _inputs(block).items()})
            replay, result = self._record(lambda: self._decoder.hidden([copied], self._cache)[0])
            self._recordings[shape] = _Recording(copied, replay, result)
        recording = self._recordings[shape]
        for name, tensor in _inputs(recording.block).items():
            tensor.copy_(getattr(block, name))
        recording.replay()
        return recording.result


def _inputs(block: Block) -> dict[str, torch.Tensor]:
    return {
        "tokens": block.tokens,
        "positions": block.positions,
        "targets": block.targets,
        "visible": block.visible,
    }
