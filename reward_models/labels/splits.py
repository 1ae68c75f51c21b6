"""Train, validation and test labels, cut so that no prompt (or response, where prompts repeat) is on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating
from textenv.datasets.rated_texts import split_of
from textenv.errors import DataError

_FEW_PROMPTS = 20


class LabelSplits(NamedTuple):
    """Labels by what they are used for.

    Attributes:
        train: About 80 %.
        validation: About 10 %.
        test: About 10 %.
    """

    train: list[Label]
    validation: list[Label]
    test: list[Label]


def split_labels(labels: Sequence[Label]) -> LabelSplits:
    """Cut labels 80 : 10 : 10, decided by a hash of the prompt's words.

    Where there are fewer than 20 prompts the label's texts decide instead: then a response may be on two sides if it
    stands in several labels.

    Raises:
        DataError: If a part stays empty.
    """
    few = len({label.prompt for label in labels}) < _FEW_PROMPTS
    parts: dict[str, list[Label]] = {"train": [], "validation": [], "test": []}
    for label in labels:
        parts[split_of(" ".join(_texts(label)) if few else label.prompt)].append(label)
    if not all(parts.values()):
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        raise DataError(f"{len(labels)} labels are too few to split ({sizes}); give validation labels of their own.")
    return LabelSplits(parts["train"], parts["validation"], parts["test"])


def _texts(label: Label) -> tuple[str, ...]:
    if isinstance(label, Rating):
        return (label.response,)
    if isinstance(label, Comparison):
        # Whoever won: two people's labels of one pair belong together.
        return tuple(sorted((label.chosen, label.rejected)))
    if isinstance(label, (Ranking, BestOf)):
        return tuple(sorted(label.responses))
    return label.steps
