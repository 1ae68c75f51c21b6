"""Scores of many texts: each distinct prompt and response once per model, failures kept apart, time and memory taken.

A model that raises, or returns something other than one finite number, loses the texts concerned and nothing else:
the batch is halved until the text is alone. After too many such texts the rest counts as failed, so that a model that
is broken altogether does not cost the whole time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.base import RewardModel

CHUNK = 512
MAX_FAILURES = 20
"""Texts in a row that raise until a model counts as broken; also, how many failing texts are kept for the report."""


@dataclass(frozen=True)
class Failure:
    """A text that a model could not score.

    Attributes:
        prompt: What was asked.
        response: What was answered.
        error: What went wrong.
    """

    prompt: str
    response: str
    error: str


class Scorer:
    """A reward model behind a cache.

    Args:
        name: The model's name.
        model: The model.

    Attributes:
        advance: Called with the number of texts done, for a progress bar; None calls nothing.
        failures: Texts without a score, at most `MAX_FAILURES` of them.
        broken: Why nothing more is asked of the model; empty while it works.
        texts: Distinct texts scored.
        seconds: Time spent in the model.
        peak_bytes: How far the process' memory rose while it scored; 0 where that cannot be read.
    """

    def __init__(self, name: str, model: RewardModel) -> None:
        self.name = name
        self.model = model
        self.failures: list[Failure] = []
        self.broken = ""
        self.texts = 0
        self.tokens = 0
        self.seconds = 0.0
        self.peak_bytes = 0
        self.advance: Callable[[int], None] | None = None
        self._cache: dict[tuple[str, str], float] = {}
        self._errors_in_a_row = 0

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        """Scores, NaN where the model failed, shape ``(n,)``."""
        keys = list(zip(prompts, responses, strict=True))
        missing = [key for key in dict.fromkeys(keys) if key not in self._cache]
        with _MemoryWatch() as watch:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                began = time.perf_counter()
                scores = self._try(chunk)
                self.seconds += time.perf_counter() - began
                self._cache.update(zip(chunk, scores, strict=True))
                if self.advance is not None:
                    self.advance(len(chunk))
        self.texts += len(missing)
        self.tokens += sum(len(prompt.split()) + len(response.split()) for prompt, response in missing)
        self.peak_bytes = max(self.peak_bytes, watch.rise)
        return np.array([self._cache[key] for key in keys], dtype=np.float64)

    def _try(self, chunk: list[tuple[str, str]]) -> list[float]:
        if self.broken:
            return [float("nan")] * len(chunk)
        try:
            found = np.asarray(self.model.score([p for p, _ in chunk], [r for _, r in chunk]), dtype=np.float64)
            error = "" if found.shape == (len(chunk),) else f"returned shape {found.shape} for {len(chunk)} texts"
        except Exception as raised:  # noqa: BLE001 a foreign model may raise anything, and the others must go on
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:300]}"
            found = np.zeros(0)
        if not error:
            self._errors_in_a_row = 0
            for key, value in zip(chunk, found, strict=True):
                if not np.isfinite(value):
                    self._fail(key, f"returned {value}")
            return [float(value) if np.isfinite(value) else float("nan") for value in found]
        if len(chunk) == 1:
            self._fail(chunk[0], error)
            self._errors_in_a_row += 1
            if self._errors_in_a_row >= MAX_FAILURES:
                self.broken = f"{MAX_FAILURES} texts in a row failed; the last with {error}"
            return [float("nan")]
        middle = len(chunk) // 2
        return self._try(chunk[:middle]) + self._try(chunk[middle:])

    def _fail(self, key: tuple[str, str], error: str) -> None:
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(Failure(*key, error))

    def speed(self) -> dict[str, float]:
        """Figures of throughput and memory; words are runs of non-blanks, so they compare across tokenizers."""
        seconds = max(self.seconds, 1e-9)
        return {
            "texts": float(self.texts),
            "seconds": self.seconds,
            "pairs_per_second": self.texts / 2 / seconds,
            "words_per_second": self.tokens / seconds,
            "peak_megabytes": self.peak_bytes / 2**20,
            "failed_texts": float(np.isnan(list(self._cache.values())).sum()),
        }


def model_parts(models: Mapping[str, Any]) -> tuple[dict[str, RewardModel], dict[str, list[str]]]:
    """Single models by name, and the names that are several seeds of one kind.

    Args:
        models: Name → model, or name → list of models that differ by seed.

    Returns:
        Every single model (members are called ``name #1`` …), and kind → names of its members.
    """
    single: dict[str, RewardModel] = {}
    kinds: dict[str, list[str]] = {}
    for name, model in models.items():
        if isinstance(model, list | tuple):
            kinds[name] = [f"{name} #{number}" for number in range(1, len(model) + 1)]
            single.update(zip(kinds[name], model, strict=True))
        else:
            single[name] = model
    return single, kinds


class _MemoryWatch:
    """How far the process' resident memory rises inside a block: the kernel's own peak, so that nothing is missed."""

    def __enter__(self) -> _MemoryWatch:
        self.rise = 0
        try:
            Path("/proc/self/clear_refs").write_text("5", "ascii")  # proc(5): sets the peak to what is resident now
            self._start = _peak_bytes()
        except OSError:
            self._start = 0
        return self

    def __exit__(self, *error: object) -> None:
        if self._start:
            self.rise = _peak_bytes() - self._start


def _peak_bytes() -> int:
    """Most resident memory of this process since its peak was last reset."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
