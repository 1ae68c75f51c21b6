"""Results as JSON can hold them: named tuples become objects, arrays lists, and what is not finite null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from textenv.statistics import Interval


def plain(value: Any) -> Any:
    """A value made of dicts, lists, texts, numbers and None only; keys become texts, gaps like 0.5 stay readable."""
    if isinstance(value, Interval):
        return value.to_json()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        return {f"{key:g}" if isinstance(key, float) else str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(entry) for entry in value.tolist()]
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
