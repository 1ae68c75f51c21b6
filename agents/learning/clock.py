"""Where an iteration's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall-clock seconds of an iteration's phases; the rest of the iteration counts as update."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside this context belongs to a phase."""
        began = time.monotonic()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def metrics(self, tokens: int) -> dict[str, float]:
        """Seconds and shares of each phase, and generated tokens per second of the whole iteration."""
        whole = max(time.monotonic() - self._began, 1e-9)
        found = {f"time/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        found |= {f"time/{name}_share": seconds / whole for name, seconds in self._seconds.items()}
        return found | {"time/tokens_per_second": tokens / whole}
