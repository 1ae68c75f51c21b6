"""The report of a benchmark: its figures as JSON, and the page that is drawn from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from textenv.checkpoints import write_atomic
from textenv.errors import DataError
from textenv.statistics import Interval

SCHEMA_VERSION = 1


def as_json(value: Any) -> Any:
    """A value made of dicts, lists, texts, numbers and None only; keys become texts, gaps like 0.5 stay readable."""
    if isinstance(value, Interval):
        return value.to_json()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return [as_json(entry) for entry in value.tolist()]
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


class BenchmarkReport:
    """All figures of a benchmark.

    Args:
        figures: What `to_json` gives.

    Raises:
        DataError: If it is of another schema version.
    """

    def __init__(self, figures: dict[str, Any]) -> None:
        if figures.get("schema_version") != SCHEMA_VERSION:
            found = figures.get("schema_version")
            raise DataError(f"benchmark figures of schema version {found!r}; this textenv reads {SCHEMA_VERSION}.")
        self.figures = figures

    @classmethod
    def load(cls, path: str | Path) -> BenchmarkReport:
        """Read what `save_json` wrote.

        Raises:
            DataError: If the file cannot be read or is no benchmark.
        """
        try:
            found = json.loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as the figures of a benchmark ({error}).") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected an object with the figures of a benchmark, got {type(found).__name__}.")
        return cls(found)

    def to_json(self) -> dict[str, Any]:
        """All figures as dicts, lists, texts, numbers and None; every figure has value, low, high (95 %) and n."""
        return self.figures

    def save_json(self, path: str | Path) -> Path:
        """Write the figures; returns the path."""
        write_atomic(Path(path), json.dumps(self.figures, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write the page: one HTML file that loads nothing; returns the path."""
        from reward_models.benchmarking.report.page import render_page

        write_atomic(Path(path), render_page(self.figures))
        return Path(path)

    def summary(self) -> RenderableType:
        """The leaderboard for a terminal: ``rich.print(report.summary())``."""
        from reward_models.benchmarking.report.terminal import summary_table

        return summary_table(self.figures)
