"""Numbers as people read them: signs, significant digits, thousands, durations, shares; axis ticks."""

import math
from collections.abc import Mapping
from typing import Any

Figure = Mapping[str, Any]
"""A measured figure as JSON holds it: ``value``, and the ends of its interval, ``low`` and ``high``, or None."""

MISSING = "–"
"""Shown where a figure is absent."""


def fixed(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """``value`` with ``digits`` decimals and a true minus sign; a dash for None."""
    if value is None:
        return MISSING
    shown = f"{value:,.{digits}f}"
    if float(shown.replace(",", "")) == 0:
        shown = shown.lstrip("-")
    elif signed and value > 0:
        shown = "+" + shown
    return shown.replace("-", "−")


def short(value: float | None) -> str:
    """About three significant digits, with k, M, G for large numbers; a dash for None."""
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 1e12:
        return f"{value:.1e}".replace("-", "−").replace("e+", "e")
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return short(value * (1e-3 if letter == "k" else 1 / limit)) + f" {letter}"
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if size != 0 and size < 1e-3:
        return f"{value:.1e}".replace("-", "−").replace("e−0", "e−")
    return f"{value:.3g}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; a dash for None."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%".replace("-", "−")


def shown(found: Figure | None, digits: int = 1, *, share: bool = True, signed: bool = False) -> str:
    """A figure's value, shares in percent but without the sign; a dash where there is none."""
    value = None if found is None else found["value"]
    return fixed(100 * value if share and value is not None else value, digits, signed=signed)


def between(found: Figure | None, digits: int = 1, *, share: bool = True, signed: bool = False) -> str:
    """A figure's interval in brackets; empty where there is none."""
    if found is None or found.get("low") is None or found.get("high") is None:
        return ""
    ends = (shown({"value": found[end]}, digits, share=share, signed=signed) for end in ("low", "high"))
    return f"[{', '.join(ends)}]"


def duration(seconds: float | None) -> str:
    """Seconds as ``38 s``, ``2 min 05 s`` or ``1 h 12 min``; a dash for None."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` multiples of a round step (1, 2 or 5 times a power of ten) inside ``[low, high]``."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    best: range = range(0)
    best_step = power
    for step in (nice * power for nice in (0.5, 1, 2, 5, 10)):
        found = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if not best or abs(len(found) - count) < abs(len(best) - count):  # of two equally good the finer one
            best, best_step = found, step
    return [float(f"{i * best_step:.12g}") for i in best]


def tick_labels(values: list[float]) -> list[str]:
    """Labels for ticks: the same number of decimals on all, thousands as k, millions as M, true minus signs."""
    largest = max((abs(value) for value in values), default=0.0)
    divisor, letter = next(
        ((size, name) for size, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if largest >= size), (1.0, "")
    )
    divisor = 1e3 if letter == "k" else divisor
    scaled = [value / divisor for value in values]
    if 0 < largest < 1e-3 or largest >= 1e12:
        return [
            f"{value:.0e}".replace("e-0", "e-").replace("e+", "e").replace("-", "−") if value else "0"
            for value in values
        ]
    decimals = next((d for d in range(7) if all(abs(round(v, d) - v) < 1e-9 * max(1, abs(v)) for v in scaled)), 6)
    return [fixed(value, decimals) + (letter if value else "") for value in scaled]
