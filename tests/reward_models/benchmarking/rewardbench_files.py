"""Small files in the two RewardBench formats, and what the `rewardbench` package makes of them.

The model is the number of words; the expected figures are those of its own functions
(``calculate_scores_per_section``, ``reroll_and_score_dataset``, ``process_single_model``) on these rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def words(count: int, first: str = "word") -> str:
    """A text of so many words."""
    return " ".join([first] + ["more"] * (count - 1))


def _pair(subset: str, number: int, chosen: int, rejected: int) -> dict[str, Any]:
    prompt = f"{subset} question {number}"
    return {"prompt": prompt, "chosen": words(chosen, "a"), "rejected": words(rejected, "b"), "subset": subset}


V1: list[dict[str, Any]] = [
    _pair("alpacaeval-easy", 0, 5, 3),
    _pair("alpacaeval-easy", 1, 5, 3),
    _pair("alpacaeval-easy", 2, 2, 3),
    _pair("mt-bench-med", 0, 4, 4),
    _pair("mt-bench-med", 1, 6, 4),
    _pair("mt-bench-hard", 0, 6, 4),
    _pair("math-prm", 0, 3, 8),
    _pair("math-prm", 1, 9, 8),
    _pair("math-prm", 2, 3, 4),
    _pair("hep-python", 0, 9, 8),
    _pair("hep-go", 0, 7, 8),
    _pair("hep-go", 1, 9, 8),
]


def _choice(subset: str, group: str, right: list[int], wrong: list[int]) -> dict[str, Any]:
    return {
        "id": group,
        "prompt": f"{subset} {group}",
        "chosen": [words(count, f"r{place}") for place, count in enumerate(right)],
        "rejected": [words(count, f"w{place}") for place, count in enumerate(wrong)],
        "num_correct": len(right),
        "num_incorrect": len(wrong),
        "total_completions": len(right) + len(wrong),
        "subset": subset,
    }


V2: list[dict[str, Any]] = [
    _choice("Math", "1", [5], [3, 4, 2]),
    _choice("Math", "2", [5], [5, 4, 2]),
    _choice("Math", "3", [2], [5, 4, 2]),
    _choice("Focus", "4", [5], [5, 5, 2]),
    _choice("Focus", "5", [7], [5, 5, 2]),
    _choice("Ties", "ref:1", [9], [3, 4]),
    _choice("Ties", "tied:1", [9, 8, 8], [3, 4]),
    _choice("Ties", "ref:2", [5], [4, 4]),
    _choice("Ties", "tied:2", [9, 5, 5], [3, 4]),
    _choice("Ties", "ref:3", [5], [6, 4]),
    _choice("Ties", "tied:3", [5, 5], [4, 2]),
]


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
