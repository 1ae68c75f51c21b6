"""Suites from the user's own labels: comparisons, rankings, best-of-K and ratings, from a file or from records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward_models.benchmarking.data import ItemTable, Pairs, SuiteData, cluster_by_prompt
from reward_models.labels import (
    BestOf,
    Comparison,
    Label,
    Ranking,
    Rating,
    comparisons_from_best,
    comparisons_from_ranking,
)
from reward_models.labels.files import read_labels
from textenv.errors import DataError


def file_suite(path: str | Path) -> SuiteData:
    """The suite of a label file, in any of the column conventions that `read_labels` knows.

    Raises:
        DataError: If the file is malformed (file, line, field), or holds nothing that orders two responses.
    """
    path = Path(path)
    return labels_suite(path.stem, read_labels(path, ignore_columns=("subset", "id")), title=f"Labels: {path.name}")


def labels_suite(name: str, labels: Sequence[Label], *, title: str = "") -> SuiteData:
    """A suite of what people said of responses to the same prompts.

    Comparisons of the same two responses by several people become one pair with the share of them that prefers the
    one; a pair on which people are split evenly, or only tied, is left out.

    Args:
        name: Short name.
        labels: Any kinds but step labels, mixed.
        title: For people.

    Raises:
        DataError: If no two responses are ordered.
    """
    items = ItemTable()
    votes: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    subsets: dict[tuple[int, int], str] = {}
    ratings: dict[int, list[float]] = defaultdict(list)
    for label in labels:
        if isinstance(label, Rating):
            ratings[items.add(label.prompt, label.response)].append(label.score)
        for comparison in _comparisons(label):
            a = items.add(comparison.prompt, comparison.chosen)
            b = items.add(comparison.prompt, comparison.rejected)
            share = 0.5 if comparison.tie else comparison.confidence
            low, high = min(a, b), max(a, b)
            votes[low, high][0] += comparison.weight * (share if a == low else 1 - share)
            votes[low, high][1] += comparison.weight
            subsets.setdefault((low, high), comparison.source or "all")
    gold = _means(ratings, len(items.prompts))
    _add_rated_pairs(votes, subsets, ratings, items.prompts)
    kept = {pair: vote[0] / vote[1] for pair, vote in votes.items() if vote[1] > 0 and vote[0] != 0.5 * vote[1]}
    if not kept:
        raise DataError(f"suite {name!r}: no two responses to one prompt are ordered by the {len(labels)} labels.")
    pairs = Pairs.of(
        [a if share > 0.5 else b for (a, b), share in kept.items()],
        [b if share > 0.5 else a for (a, b), share in kept.items()],
        share=[max(share, 1 - share) for share in kept.values()],
        gap=None if gold is None else [abs(gold[a] - gold[b]) for a, b in kept],
        subset=[subsets[pair] for pair in kept],
    )
    raters = [tuple(ratings[index]) for index in range(len(items.prompts))]
    return SuiteData(
        name,
        title or f"Labels: {name}",
        items.prompts,
        items.responses,
        pairs,
        cluster_by_prompt(items.prompts),
        gold=gold,
        raters=tuple(raters) if raters and min(map(len, raters)) >= 2 else None,
        note=f"{len(labels):,} labels, {len(pairs):,} pairs",
    )


def _comparisons(label: Label) -> list[Comparison]:
    if isinstance(label, Comparison):
        return [label]
    if isinstance(label, Ranking):
        return comparisons_from_ranking(label)
    if isinstance(label, BestOf):
        return comparisons_from_best(label)
    return []


def _means(ratings: dict[int, list[float]], count: int) -> np.ndarray | None:
    """Mean rating of each item; None unless all are rated."""
    if len(ratings) < count:
        return None
    return np.array([np.mean(ratings[index]) for index in range(count)])


def _add_rated_pairs(
    votes: dict[tuple[int, int], list[float]],
    subsets: dict[tuple[int, int], str],
    ratings: dict[int, list[float]],
    prompts: Sequence[str],
) -> None:
    """Pairs of rated responses to one prompt: the share of raters' pairs in which the one gets more."""
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for index in sorted(ratings):
        by_prompt[prompts[index]].append(index)
    for group in by_prompt.values():
        for position, a in enumerate(group):
            for b in group[position + 1 :]:
                ours, theirs = np.array(ratings[a]), np.array(ratings[b])
                if ours.mean() == theirs.mean():
                    continue
                share = float(0.5 * (np.sign(ours[:, None] - theirs) + 1).mean())
                # The means decide the order, the share says how sure it is.
                share = max(share, 0.5 + 1e-9) if ours.mean() > theirs.mean() else min(share, 0.5 - 1e-9)
                votes[a, b][0] += share
                votes[a, b][1] += 1
                subsets.setdefault((a, b), "all")
