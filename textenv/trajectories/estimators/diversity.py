"""How much answers repeat one another: distinct n-grams and self-BLEU, on words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from textenv.errors import ConfigError

_SMOOTHING = 0.1  # what a count of 0 is replaced by (Chen and Cherry 2014, method 1; the value Texygen uses)

Gram = tuple[str, ...]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of word n-grams that are distinct, over all texts together: low where answers repeat each other.

    Args:
        texts: Answers; compare only sets of equal size, since the share falls as a set grows.
        n: Words per n-gram, at least 1.

    Returns:
        Distinct n-grams divided by all n-grams; 0 where there are none.

    Raises:
        ConfigError: If n is below 1.
    Source: Li et al. 2016, arXiv:1510.03055.
    """
    if n < 1:
        raise ConfigError(f"`n` must be ≥ 1, got {n}")
    grams = [gram for text in texts for gram in _grams(_words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], max_n: int = 4) -> float:
    """Mean BLEU of each text with all others as references: 1 where all are equal, near 0 where they share nothing.

    BLEU with uniform weights over 1- to ``max_n``-grams, counts clipped by the most that any other text has, the
    closest length as reference length, and 0.1 in place of a count of 0. A text that shares no word scores 0. The work
    grows with the number of words, not with the number of pairs.

    Args:
        texts: At least two answers; compare only sets of equal size.
        max_n: Longest n-gram.

    Raises:
        ConfigError: If there are fewer than two texts, or ``max_n`` is below 1.
    Source: Zhu et al. 2018, Texygen, arXiv:1802.01886, section 3.2; Papineni et al. 2002.
    """
    if max_n < 1:
        raise ConfigError(f"`max_n` must be ≥ 1, got {max_n}")
    if len(texts) < 2:
        raise ConfigError(f"self-BLEU compares at least two texts, got {len(texts)}")
    words = [_words(text) for text in texts]
    logs = np.zeros(len(texts))
    matched = np.ones(len(texts), bool)
    for n in range(1, max_n + 1):
        counts = [Counter(_grams(row, n)) for row in words]
        best = _two_best(counts)
        for i, own in enumerate(counts):
            hits = 0
            for gram, count in own.items():
                (most, owner), (second, _) = best[gram]
                hits += min(count, second if owner == i else most)
            if n == 1 and hits == 0:
                matched[i] = False
            logs[i] += np.log((hits or _SMOOTHING) / max(1, sum(own.values()))) / max_n
    penalties = _brevity_logs([len(row) for row in words])
    return float(np.where(matched, np.exp(logs + penalties), 0.0).mean())


def _words(text: str) -> list[str]:
    return text.lower().split()


def _grams(words: Sequence[str], n: int) -> list[Gram]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _two_best(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[tuple[int, int], tuple[int, int]]]:
    """For each n-gram the two highest counts in a text, each with its text."""
    best: dict[Gram, tuple[tuple[int, int], tuple[int, int]]] = {}
    for owner, own in enumerate(counts):
        for gram, count in own.items():
            first, second = best.get(gram, ((0, -1), (0, -1)))
            if count > first[0]:
                best[gram] = (count, owner), first
            elif count > second[0]:
                best[gram] = first, (count, owner)
    return best


def _brevity_logs(lengths: Sequence[int]) -> np.ndarray:
    """Log of the brevity penalty of each text against the closest length among the others (of two, the shorter)."""
    logs = np.zeros(len(lengths))
    occurring = Counter(lengths)
    for i, length in enumerate(lengths):
        if occurring[length] > 1:
            continue
        closest = min((other for other in occurring if other != length), key=lambda o: (abs(o - length), o))
        if 0 < length < closest:
            logs[i] = 1 - closest / length
    return logs
