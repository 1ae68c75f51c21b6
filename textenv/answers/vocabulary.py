"""Which ids are tokens: tokenizers have gaps between their ids, and models have rows beyond them."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONTEXT_TOKENS = 64  # that stand before others: what comes before them changes nothing in how the others are decoded

_cache: weakref.WeakKeyDictionary[Any, tuple[int, Vocabulary]] = weakref.WeakKeyDictionary()


class Vocabulary(NamedTuple):
    """The ids of a tokenizer.

    Attributes:
        size: One more than the largest id.
        absent: Ids below ``size`` that are no tokens, int64, in ascending order.
    """

    size: int
    absent: NDArray[np.int64]

    def within(self, rows: int) -> Vocabulary:
        """The ids that a model with so many embedding rows has too."""
        size = min(self.size, rows)
        return Vocabulary(size, self.absent[self.absent < size])

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.size - len(self.absent)

    def __str__(self) -> str:
        """How many tokens there are, and where."""
        gaps = f", {len(self.absent)} of them no tokens" if len(self.absent) else ""
        return f"{self.tokens} (0 … {self.size - 1}{gaps})"

    @property
    def is_token(self) -> NDArray[np.bool_]:
        """True on ids that are tokens, shape ``(size,)``, new on every call."""
        found = np.ones(self.size, dtype=np.bool_)
        found[self.absent] = False
        return found


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The ids that a tokenizer has, by its ``get_vocab()``; without one they are ``0 … len(tokenizer) - 1``."""
    count, cached = len(tokenizer), _cache.get(tokenizer)
    if cached is not None and cached[0] == count:
        return cached[1]
    found = Vocabulary(count, np.zeros(0, np.int64))
    if hasattr(tokenizer, "get_vocab"):
        ids = np.unique(np.fromiter(tokenizer.get_vocab().values(), np.int64))
        if len(ids):
            size = int(ids[-1]) + 1
            found = Vocabulary(size, np.setdiff1d(np.arange(size), ids, assume_unique=True))
    _cache[tokenizer] = (count, found)
    return found
