"""RewardBench-format files, where the user has one: version 1 (pairs in subsets) and version 2 (best of four, ties).

Version 1 has the columns ``prompt``, ``chosen``, ``rejected`` and ``subset``. Its score weighs the subsets of a
section by their published sizes, and ``math-prm`` by 984 although it holds 447 pairs, so that mathematics counts as
much as code; equal scores count as wrong there. Version 2 has lists in ``chosen`` and ``rejected``.

Source: Lambert et al. 2024, arXiv:2403.13787; Malik et al. 2025, arXiv:2506.01937; sizes and sections as in the
`rewardbench` package 0.1.4 (constants), which are facts about the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_models.benchmarking.data import Choice, ItemTable, Pairs, SuiteData, cluster_by_prompt
from textenv.answers import prompt_and_answers
from textenv.errors import DataError
from textenv.records import read_rows

SECTIONS: dict[str, dict[str, float]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
MATH_PAIRS = 447
"""True number of ``math-prm`` pairs."""


def rewardbench_suite(path: str | Path, *, upweight_math: bool = True) -> SuiteData:
    """The suite of a RewardBench file; the version is told from the first row.

    Args:
        path: Of any kind that :func:`textenv.records.read_rows` reads.
        upweight_math: Weigh ``math-prm`` by 984 as the leaderboard does; its true size otherwise. Version 1 only.

    Raises:
        DataError: If the file cannot be read or a row is malformed: file, line, field, what was expected.
    """
    path = Path(path)
    rows = [(row.where, row.columns) for row in read_rows(path)]
    if not rows:
        raise DataError(f"{path}: the file is empty; expected one object per line.")
    first = rows[0][1]
    chosen = first.get("chosen")
    if isinstance(chosen, list) and not any(isinstance(entry, Mapping) for entry in chosen):
        return _version_2(path, rows)
    return _version_1(path, rows, upweight_math)


def _version_1(path: Path, rows: list[tuple[str, Mapping[str, Any]]], upweight_math: bool) -> SuiteData:
    items, better, worse, subsets = ItemTable(), [], [], []
    for where, row in rows:
        prompt, (right, wrong) = prompt_and_answers(
            row.get("prompt"), {name: row.get(name) for name in ("chosen", "rejected")}, where
        )
        better.append(items.add(prompt, right))
        worse.append(items.add(prompt, wrong))
        subsets.append(_text(row, "subset", where) if "subset" in row else "all")
    sections = {name: dict(weights) for name, weights in SECTIONS.items()}
    if not upweight_math:
        sections["Reasoning"]["math-prm"] = MATH_PAIRS
    present = set(subsets)
    weights = {name: parts for name, parts in sections.items() if present & parts.keys()}
    math = "weighed as 984 pairs" if upweight_math else "weighed by its true size"
    return SuiteData(
        path.stem,
        f"RewardBench 1: {path.name}",
        items.prompts,
        items.responses,
        Pairs.of(better, worse, subset=subsets),
        cluster_by_prompt(items.prompts),
        weights=weights,
        note=f"{len(rows):,} pairs; section scores count ties as wrong, math-prm {math}",
    )


def _version_2(path: Path, rows: list[tuple[str, Mapping[str, Any]]]) -> SuiteData:
    items, choices, better, worse, subsets = ItemTable(), [], [], [], []
    for number, (where, row) in enumerate(rows):
        subset = _text(row, "subset", where) if "subset" in row else "all"
        given = {name: _texts(row, name, where) for name in ("chosen", "rejected")}
        answers = {f"{name}[{place}]": text for name, texts in given.items() for place, text in enumerate(texts)}
        prompt, read = prompt_and_answers(row.get("prompt"), answers, where)
        places = [items.add(prompt, text) for text in read]
        right, wrong = places[: len(given["chosen"])], places[len(given["chosen"]) :]
        count = row.get("num_correct", len(right))
        if count != len(right):
            raise DataError(f"{where}: `num_correct` is {count!r}, but `chosen` holds {len(right)} responses.")
        group = str(row.get("id", f"row:{number}"))
        if subset.lower() == "ties" and not (group.startswith(("ref:", "tied:")) and group.partition(":")[2]):
            raise DataError(f"{where}: `id` of a tie must be ref:<number> or tied:<number>, got {group!r}.")
        choices.append(Choice((*right, *wrong), len(right), subset, group))
        for a in right:
            for b in wrong:
                if a != b:
                    better.append(a)
                    worse.append(b)
                    subsets.append(subset)
    return SuiteData(
        path.stem,
        f"RewardBench 2: {path.name}",
        items.prompts,
        items.responses,
        Pairs.of(better, worse, subset=subsets),
        cluster_by_prompt(items.prompts),
        choices=tuple(choices),
        note=f"{len(rows):,} prompts; best-of-K accuracy, k equal best scores count 1/k",
    )


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: `{field}` must be a text, got {value!r:.80}.")
    return value


def _texts(row: Mapping[str, Any], field: str, where: str) -> list[str]:
    value = row.get(field)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: `{field}` must be a list of texts, at least one, got {value!r:.80}.")
    return value
