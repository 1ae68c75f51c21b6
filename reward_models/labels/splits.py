"""Train, validation and test labels, cut so that what belongs together stays on one side.

In files of dialogues the same beginning stands in many rows, and prompts come in families that differ in a few words.
Both would put a test's question into the training labels. What cannot be kept apart is counted by `split_leaks`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from reward_models.labels.records import BestOf, Comparison, Label, Ranking, Rating
from textenv.answers import Chat, message_text
from textenv.datasets.records import SPLITS, split_of
from textenv.errors import ConfigError, DataError

_FEWEST_GROUPS = 20
# Cosine of two beginnings from which on they are near duplicates; where that puts more than this share of all into one
# family, the next one is asked for there.
_SIMILAR = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_LARGEST = 0.05
_PAIRS = 1e8  # of entries of the index that are multiplied, which bounds the time
_LONGEST = 2000  # characters of a beginning that are looked at

SplitBy = Literal["dialogue", "prompt", "answers"]


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


def split_labels(labels: Sequence[Label], by: SplitBy | Sequence[Hashable] = "dialogue") -> LabelSplits:
    """Cut labels 80 : 10 : 10 by groups; a group's name decides, so that it stays where it is in a larger file.

    Args:
        labels: Any labels.
        by: What belongs together: ``dialogue``, prompts whose first question is the same or nearly so (see
            `near_duplicates`); ``prompt``, the same prompt up to case, punctuation and white space; ``answers``, the
            same answers, where few prompts have many of them: then a test is on prompts that were trained on; or a
            value for each label, such as a column's.

    Raises:
        DataError: If there are fewer than 20 groups, or fewer labels than parts.
        ConfigError: If there is no such way.
    """
    if isinstance(by, str):
        groups = _groups(labels, by)
    elif len(by) == len(labels):
        groups = [repr(value) for value in by]
    else:
        raise ConfigError(f"`by` has {len(by)} values for {len(labels)} labels; each label needs its own.")
    names = sorted(set(groups), key=_place)
    if len(names) < _FEWEST_GROUPS:
        raise DataError(
            f"{len(labels)} labels of {len(names)} different prompts or groups are too few to split: a test would be "
            "on what was trained on; give validation labels of their own, or say what belongs together (`by`, "
            "`--split_by`): prompt where near duplicates do not, a column, or answers if that test is meant"
        )
    part_of = {name: split_of(name) for name in names}
    for part in SPLITS:  # of few groups none may have fallen to a part
        if part not in part_of.values():
            part_of[names[SPLITS.index(part)]] = part
    parts: dict[str, list[Label]] = {name: [] for name in SPLITS}
    for label, group in zip(labels, groups, strict=True):
        parts[part_of[group]].append(label)
    return LabelSplits(parts["train"], parts["validation"], parts["test"])


def split_leaks(splits: LabelSplits) -> list[str]:
    """What training and held-out labels still have in common, a sentence each; nothing where they have nothing."""
    held_out = [*splits.validation, *splits.test]
    lines = []
    for what, of in (("a prompt", lambda label: [label.prompt]), ("an answer", _texts)):
        trained = {_folded(text) for label in splits.train for text in of(label)}
        shared = sum(any(_folded(text) in trained for text in of(label)) for label in held_out)
        if shared:
            lines.append(f"{shared:,} of {len(held_out):,} held-out labels have {what} that training labels have too")
    return lines


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first one of its family.

    Two texts are alike where the cosine of their words' pieces (words and four letters each), weighed by how rare they
    are in these texts, is at least 0.5; families are what such pairs connect. Where that makes a family of more than a
    twentieth of all texts, pairs are asked to be more and more alike in it, up to 0.9; what a text is most alike to
    always stays with it. Pieces that very many texts share are not looked at where that would take too long.

    Args:
        texts: The texts.
    """
    first: dict[str, int] = {}
    place = [first.setdefault(_folded(text[:_LONGEST]), number) for number, text in enumerate(texts)]
    distinct = list(first.values())
    family = _families([texts[number][:_LONGEST] for number in distinct])
    leader: dict[int, int] = {}
    of_distinct = {number: leader.setdefault(int(name), number) for number, name in zip(distinct, family, strict=True)}
    return [of_distinct[number] for number in place]


def _families(texts: Sequence[str]) -> Any:
    """The family of each of different texts, as numbers."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    words: dict[str, int] = {}
    rows, columns = [], []
    for number, text in enumerate(texts):
        for word in set(_WORD.findall(text.casefold())):
            rows.append(number)
            columns.append(words.setdefault(word, len(words)))
    if not words:
        return np.arange(len(texts))
    pieces: dict[str, int] = {}
    of_words = [[pieces.setdefault(piece, len(pieces)) for piece in _pieces(word)] for word in words]
    owners = np.repeat(np.arange(len(words)), [len(each) for each in of_words])
    inside = sparse.csr_matrix(
        (np.ones(len(owners), np.float32), (owners, np.concatenate(of_words))), (len(words), len(pieces))
    )
    held: Any = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(texts), len(words))) @ inside
    held.data[:] = 1
    known_by = np.asarray(held.sum(0)).ravel()
    held = held.multiply(np.log((1 + len(texts)) / known_by)[None, :]).tocsr().astype(np.float32)
    lengths = np.sqrt(np.asarray(held.multiply(held).sum(1)).ravel())
    held = sparse.diags_array((1 / np.maximum(lengths, 1e-9)).astype(np.float32)) @ held
    # The rare pieces first, as many as the work allows; their part of the cosine is at most the whole.
    by_rarity = np.argsort(known_by, kind="stable")
    affordable = by_rarity[: max(1, int(np.searchsorted(np.cumsum(known_by[by_rarity] ** 2), _PAIRS)))]
    index = held.tocsc()[:, np.sort(affordable[known_by[affordable] > 1])].tocsr()
    pairs: list[tuple[Any, Any, Any, Any]] = []
    for start in range(0, len(texts), 1000):
        cosines = (index[start : start + 1000] @ index.T).tocoo()
        close = (cosines.data >= _SIMILAR[0]) & (cosines.row + start != cosines.col)
        i, j, cosine = cosines.row[close], cosines.col[close], cosines.data[close]
        best = np.zeros(cosines.shape[0], np.float32)
        np.maximum.at(best, i, cosine)
        pairs.append((i + start, j, cosine, cosine >= best[i] - 1e-6))
    i, j, cosine, nearest = (np.concatenate(part) for part in zip(*pairs, strict=True))
    family, kept = np.zeros(len(texts), np.int64), np.ones(len(i), bool)
    for least in _SIMILAR:
        large = np.bincount(family)[family] > max(_LARGEST * len(texts), 2)
        kept &= ~large[i] | nearest | (cosine >= least)
        graph = sparse.coo_matrix((np.ones(kept.sum()), (i[kept], j[kept])), (len(texts), len(texts)))
        family = connected_components(graph, directed=False)[1]
    return family


_WORD = re.compile(r"\w+")


def _pieces(word: str) -> list[str]:
    """A word, and its pieces of four letters with its ends marked: misspelt and inflected words share most."""
    marked = f"<{word}>"
    return [word, *(marked[start : start + 4] for start in range(len(marked) - 3))]


def _groups(labels: Sequence[Label], by: str) -> list[str]:
    if by == "answers":
        return [_folded(" ".join(_texts(label))) for label in labels]
    if by == "prompt":
        return [_folded(label.prompt) for label in labels]
    if by != "dialogue":
        raise ConfigError(f"`by` must be dialogue, prompt or answers, or a value for each label, got {by!r}")
    beginnings = list(dict.fromkeys(_beginning(label.prompt) for label in labels))
    leaders = near_duplicates(beginnings)
    members: dict[int, list[str]] = defaultdict(list)
    for beginning, leader in zip(beginnings, leaders, strict=True):
        members[leader].append(_folded(beginning))
    # The first member by alphabet names the group, so that the order of the labels does not matter; the first by hash
    # would mostly be one of training.
    names = {beginning: min(members[leader]) for beginning, leader in zip(beginnings, leaders, strict=True)}
    return [names[_beginning(label.prompt)] for label in labels]


def _beginning(prompt: str) -> str:
    """What the user says first; of a plain text all of it."""
    said = prompt.messages if isinstance(prompt, Chat) else ()
    asked = next((message_text(message.get("content")) for message in said if message["role"] == "user"), "")
    return asked or prompt[:]


def _folded(text: str) -> str:
    folded = text.casefold()
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


def _place(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _texts(label: Label) -> tuple[str, ...]:
    if isinstance(label, Rating):
        return (label.response,)
    if isinstance(label, Comparison):
        # Whoever won: two people's labels of one pair belong together.
        return tuple(sorted((label.chosen, label.rejected)))
    if isinstance(label, (Ranking, BestOf)):
        return tuple(sorted(label.responses))
    return label.steps
