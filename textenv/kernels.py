"""Compiled helpers for decoding and scoring on CPUs, built on first use; everything works without them.

The machine's C compiler makes the library, which is kept in the cache folder under a name that stands for its source,
the compiler and the processor. It runs on the threads of the OpenMP runtime that torch brings along: a second runtime
would fight with it for the cores. ``TEXTENV_KERNELS=0`` switches the helpers off.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from textenv.datasets.fetch import cache_dir

_logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.c")
# Not -ffast-math: linked with it, a library switches subnormal numbers off in the whole process.
_MATH = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"]
_WIDE = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
_FLAGS = ["-O3", "-march=native", *_WIDE, *_MATH, "-shared", "-fPIC", "-std=gnu11"]
MAX_HEAD_DIM = 256
MAX_HEADS = 64
_PARTS = 16  # as in kernels.c


class RowDraws(NamedTuple):
    """Columns that were drawn, and what their log-probabilities are made of, shape ``(B,)`` each.

    Attributes:
        tokens: Columns, int64.
        tops: Largest logit, float64.
        totals: Sum of ``exp((logits - top) / temperature)``, float64.
        plain_totals: The same at temperature 1.
    """

    tokens: torch.Tensor
    tops: torch.Tensor
    totals: torch.Tensor
    plain_totals: torch.Tensor


class RowLogprobs(NamedTuple):
    """What `Kernels.token_logprobs` finds, float32, shape ``(B,)`` each.

    Attributes:
        logprobs: Of the given columns, nats.
        tops: Largest logit.
        totals: Sum of ``exp((logits - top) / temperature)``.
        entropy: Nats; None where not asked for.
    """

    logprobs: torch.Tensor
    tops: torch.Tensor
    totals: torch.Tensor
    entropy: torch.Tensor | None


@dataclass(frozen=True)
class DocumentTokens:
    """The tokens that documents consist of; documents that begin alike have their first tokens in common.

    Attributes:
        tokens: Numbers of the tokens of all documents, one after the other, int64, shape ``(M,)``. Each number stands
            in one document as its own; where it stands in others, all before it are taken from elsewhere too.
        starts: Where in ``tokens`` each document starts, and its length, int64, shape ``(documents + 1,)``.
        repeated: How many places that are not their document's own there are in the documents before each, and in
            all, int64, shape ``(documents + 1,)``.
        again: The tokens at these places, int64, shape ``(repeated[-1],)``.
        longest: Tokens of the longest document.
    """

    tokens: torch.Tensor
    starts: torch.Tensor
    repeated: torch.Tensor
    again: torch.Tensor
    longest: int


class Kernels:
    """The compiled functions.

    Args:
        library: The loaded shared library.
        parallel: Address of the OpenMP runtime's entry point; None runs on one thread.
    """

    def __init__(self, library: ctypes.CDLL, parallel: int | None) -> None:
        self._parallel = parallel
        pointer, long, real, flag = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
        self._rms_norm = library.rms_norm
        self._rms_norm.argtypes = [pointer] * 4 + [long] * 2 + [real, flag]
        self._rms_norm_gradient = library.rms_norm_gradient
        self._rms_norm_gradient.argtypes = [pointer] * 6 + [long] * 2 + [real, flag]
        self._gated = library.gated
        self._gated.argtypes = [pointer] * 7 + [long, flag]
        self._attention = library.decode_attention
        self._attention.argtypes = [pointer] * 10 + [long] * 5 + [real, flag]
        self._document_room = library.document_room
        self._document_room.argtypes, self._document_room.restype = [long] * 2, long
        self._document_attention = library.document_attention
        self._document_attention.argtypes = [pointer] * 17 + [long] * 6 + [real]
        self._draw = library.draw_tokens
        self._draw.argtypes = [pointer] * 7 + [long] * 3 + [ctypes.c_double, flag]
        self._token_logprobs = library.token_logprobs
        self._token_logprobs.argtypes = [pointer] * 7 + [long] * 3 + [real, flag]
        self._logprob_gradient = library.logprob_gradient
        self._logprob_gradient.argtypes = [pointer] * 8 + [long] * 3 + [real, flag]

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """``x / sqrt(mean(x²) + eps) · weight`` along the last dimension of a contiguous ``(N, D)`` tensor."""
        out = torch.empty_like(x)
        low = x.dtype == torch.bfloat16
        self._rms_norm(
            self._parallel, x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.shape[0], x.shape[1], eps, low
        )
        return out

    def rms_norm_gradient(
        self, x: torch.Tensor, weight: torch.Tensor, by_out: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of `rms_norm` by its input and its weight from that by its output; all contiguous, one type."""
        by_x, by_weight = torch.empty_like(x), torch.empty(_PARTS, x.shape[1])
        tensors = (x, weight, by_out, by_x, by_weight)
        addresses = [tensor.data_ptr() for tensor in tensors]
        self._rms_norm_gradient(self._parallel, *addresses, x.shape[0], x.shape[1], eps, x.dtype == torch.bfloat16)
        return by_x, by_weight.sum(0).to(weight.dtype)

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) · up`` of contiguous tensors."""
        out = torch.empty_like(gate)
        addresses = (gate.data_ptr(), up.data_ptr(), None, out.data_ptr(), None, None)
        self._gated(self._parallel, *addresses, gate.numel(), gate.dtype == torch.bfloat16)
        return out

    def gated_gradient(
        self, gate: torch.Tensor, up: torch.Tensor, by_out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of `gated` by both inputs from that by its output; all contiguous, one type."""
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        inputs = (gate.data_ptr(), up.data_ptr(), by_out.data_ptr())
        outputs = (None, by_gate.data_ptr(), by_up.data_ptr())
        self._gated(self._parallel, *inputs, *outputs, gate.numel(), gate.dtype == torch.bfloat16)
        return by_gate, by_up

    def decode_attention(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        places: torch.Tensor,
        targets: torch.Tensor,
        lengths: torch.Tensor,
        *,
        heads: int,
        scale: float,
    ) -> torch.Tensor:
        """Rotary embedding, cache write and attention of one new token per sequence.

        Args:
            qkv: Queries, keys and values, ``(N, heads + 2 · kv_heads, dim)``, contiguous like all the others.
            cos: Of the rotary embedding, float32, ``(N, dim)``.
            sin: Likewise.
            keys: Cache, ``(slots, positions, kv_heads, dim)``; written to.
            values: Likewise.
            places: Slot of each sequence, int64, ``(N,)``.
            targets: Position that its new token is written to, int64, ``(N,)``.
            lengths: Positions that it sees, from the first on, at least 1, int64, ``(N,)``.
            heads: Number of query heads.
            scale: Factor of the scores.

        Returns:
            Shape ``(N, heads · dim)``.
        """
        rows, positions, kv_heads, dim = len(qkv), *keys.shape[1:]
        out = qkv.new_empty(rows, heads * dim)
        tensors = (qkv, cos, sin, keys, values, places, targets, lengths, out)
        addresses = [tensor.data_ptr() for tensor in tensors]
        low = qkv.dtype == torch.bfloat16
        self._attention(self._parallel, *addresses, rows, heads, kv_heads, dim, positions, scale, low)
        return out

    def document_attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: DocumentTokens, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Causal attention of documents, each to itself.

        Args:
            q: Queries, float32, shape ``(T, heads, dim)``, the last dimension contiguous.
            k: Keys, shape ``(T, kv_heads, dim)``; ``heads`` is a multiple of their number.
            v: Values, of the same shape.
            documents: Which of the T tokens the documents consist of.
            scale: Factor of the scores.

        Returns:
            What each token gets, shape ``(T, heads, dim)``, contiguous, and the log of its scores' sum of exponentials,
            ``(T, heads)``.
        """
        out, totals = q.new_empty(q.shape), q.new_empty(q.shape[:2])
        self._attend_documents((q, k, v), documents, scale, out, totals, [None] * 6)
        return out, totals

    def document_attention_gradient(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        documents: DocumentTokens,
        scale: float,
        found: tuple[torch.Tensor, torch.Tensor],
        by_out: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of `document_attention` by queries, keys and values.

        Args:
            q: As for `document_attention`, like the next four.
            k: Likewise.
            v: Likewise.
            documents: Likewise.
            scale: Likewise.
            found: What it returned.
            by_out: Gradient by what each token gets, contiguous.
        """
        by_q, by_k, by_v = (each.new_empty(each.shape) for each in (q, k, v))
        more_k, more_v = k.new_empty(2, len(documents.again), *k.shape[1:])
        self._attend_documents((q, k, v), documents, scale, *found, [by_out, by_q, by_k, by_v, more_k, more_v])
        return by_q, by_k.index_add_(0, documents.again, more_k), by_v.index_add_(0, documents.again, more_v)

    def _attend_documents(
        self,
        states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        documents: DocumentTokens,
        scale: float,
        out: torch.Tensor,
        totals: torch.Tensor,
        slopes: Sequence[torch.Tensor | None],
    ) -> None:
        q, k, _ = states
        heads, dim = q.shape[1:]
        count, longest = len(documents.starts) - 1, documents.longest
        slots = min(torch.get_num_threads(), count * k.shape[1])
        scratch = q.new_empty(slots, self._document_room(longest, dim))
        strides = torch.tensor([stride for each in states for stride in each.stride()[:2]])
        places = (documents.tokens, documents.starts, documents.repeated)
        tensors = (*states, strides, out, totals, *slopes, *places, scratch)
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        sizes = (count, heads, k.shape[1], dim, longest, slots)
        self._document_attention(self._parallel, *addresses, *sizes, scale)

    def draw(self, logits: torch.Tensor, points: torch.Tensor, temperature: float = 1.0) -> RowDraws:
        """Draw a column of each row in proportion to ``exp(logits / temperature)`` by inverse transform.

        Args:
            logits: float32 or bfloat16, ``(B, V)``, each row contiguous; −inf is never drawn.
            points: One number in [0, 1) per row, float64, ``(B,)``.
            temperature: Positive.
        """
        rows, vocabulary = logits.shape
        tokens = torch.empty(rows, dtype=torch.long)
        tops, totals, plain = torch.empty(3, rows, dtype=torch.float64)
        self._draw(
            self._parallel,
            *(tensor.data_ptr() for tensor in (logits, points, tokens, tops, totals)),
            None if temperature == 1.0 else plain.data_ptr(),
            rows,
            vocabulary,
            logits.stride(0),
            1.0 / temperature,
            logits.dtype == torch.bfloat16,
        )
        return RowDraws(tokens, tops, totals, totals if temperature == 1.0 else plain)

    def token_logprobs(
        self, logits: torch.Tensor, targets: torch.Tensor, temperature: float, *, entropy: bool
    ) -> RowLogprobs:
        """Log-probabilities of a column of each row under ``softmax(logits / temperature)``.

        Args:
            logits: float32 or bfloat16, ``(B, V)``, each row contiguous; −inf has no probability.
            targets: Columns, int64, ``(B,)``.
            temperature: Positive.
            entropy: Also compute the entropy of each row.
        """
        rows, vocabulary = logits.shape
        logprobs, tops, totals = torch.empty(3, rows)
        found = RowLogprobs(logprobs, tops, totals, torch.empty(rows) if entropy else None)
        self._token_logprobs(
            self._parallel,
            logits.data_ptr(),
            targets.data_ptr(),
            *(tensor.data_ptr() for tensor in (logprobs, tops, totals)),
            None if found.entropy is None else found.entropy.data_ptr(),
            rows,
            vocabulary,
            logits.stride(0),
            1.0 / temperature,
            logits.dtype == torch.bfloat16,
        )
        return found

    def logprob_gradient_(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        found: RowLogprobs,
        temperature: float,
        by_logprob: torch.Tensor,
        by_entropy: torch.Tensor | None,
    ) -> None:
        """Overwrite logits with their gradient.

        Args:
            logits: As for `token_logprobs`.
            targets: As for `token_logprobs`.
            found: What `token_logprobs` gave for them.
            temperature: As for `token_logprobs`.
            by_logprob: Gradient with respect to each log-probability, float32, ``(B,)``.
            by_entropy: The same for the entropies; needs ``found.entropy``.
        """
        rows, vocabulary = logits.shape
        optional = (found.entropy, by_logprob, by_entropy)
        self._logprob_gradient(
            self._parallel,
            *(tensor.data_ptr() for tensor in (logits, targets, found.tops, found.totals)),
            *(None if tensor is None else tensor.data_ptr() for tensor in optional),
            rows,
            vocabulary,
            logits.stride(0),
            1.0 / temperature,
            logits.dtype == torch.bfloat16,
        )


@cache
def kernels() -> Kernels | None:
    """The compiled helpers; None where they are switched off or there is no compiler."""
    if os.environ.get("TEXTENV_KERNELS", "1") == "0":
        return None
    try:
        return Kernels(ctypes.CDLL(str(_build())), _openmp_entry())
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _logger.info("decoding without compiled helpers: %s", error)
        return None


def required_kernels() -> Kernels:
    """The compiled helpers, for what is only switched on where they are there."""
    found = kernels()
    assert found is not None, "switched on without the compiled helpers"
    return found


def _build() -> Path:
    """The shared library, compiled if it is not there yet."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc, gcc or clang) was found")
    processor = Path("/proc/cpuinfo")
    flags = next((line for line in processor.read_text().splitlines() if line.startswith("flags")), "")
    key = hashlib.sha256("\n".join([_SOURCE.read_text(), compiler, *_FLAGS, flags]).encode()).hexdigest()[:16]
    target = cache_dir() / "kernels" / f"kernels-{key}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            fresh = Path(folder) / target.name
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(fresh), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            fresh.replace(target)
    return target


def _openmp_entry() -> int | None:
    """Address of ``GOMP_parallel`` in the OpenMP runtime that torch uses; None where it has none.

    A process may have several runtimes (scikit-learn brings its own). Each has threads that spin while they wait, so
    taking turns between two of them costs milliseconds a call.
    """
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libtorch_cpu" in line}
    for path in loaded:
        entry = getattr(ctypes.CDLL(path), "GOMP_parallel", None)  # looked up in the library and what it links to
        if entry is not None:
            return ctypes.cast(entry, ctypes.c_void_p).value
    return None
