"""Stop strings: matched on text, also where one spans several tokens, without decoding on every step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from textenv.protocols import Tokenizer

_REPLACEMENT = "�"  # what incomplete UTF-8 decodes to
_MARGIN_TOKENS = 4  # a character of UTF-8 has at most 4 bytes, so at most 4 byte-level tokens
_piece_cache: weakref.WeakKeyDictionary[Tokenizer, list[str | None]] = weakref.WeakKeyDictionary()


def token_pieces(tokenizer: Tokenizer) -> list[str | None]:
    """Text that each token adds after other text; None where the tokenizer does not say (cached per tokenizer).

    A token decoded alone may lose its leading space, so each is decoded after an ordinary token.
    """
    cached = _piece_cache.get(tokenizer)
    if cached is not None:
        return cached
    size = len(tokenizer)
    anchor = next((i for i in range(size) if _plain(tokenizer.decode([i]))), None)
    if anchor is None:
        pieces: list[str | None] = [tokenizer.decode([i]) for i in range(size)]
    else:
        before = tokenizer.decode([anchor])
        texts = (tokenizer.decode([anchor, i]) for i in range(size))
        pieces = [text[len(before) :] if text.startswith(before) else None for text in texts]
    _piece_cache[tokenizer] = pieces
    return pieces


def _plain(text: str) -> bool:
    return text.isascii() and text.isalnum()


class StopMatcher:
    """Says when an answer's text contains a stop string.

    Args:
        tokenizer: Decodes answers.
        stops: The stop strings, none of them empty.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self._longest = max(map(len, self.stops))

    @cached_property
    def could_end(self) -> NDArray[np.bool_]:
        """True for tokens after which some stop string could be complete, shape ``(tokens,)``; made at first use."""
        return np.array([self._could_end(piece) for piece in token_pieces(self.tokenizer)])

    def _could_end(self, piece: str | None) -> bool:
        if piece is None:
            return True
        if _REPLACEMENT in piece and any(not stop.isascii() for stop in self.stops):
            return True
        return any(
            stop in piece or any(stop.endswith(piece[:k]) for k in range(1, min(len(piece), len(stop)) + 1))
            for stop in self.stops
        )

    def matches(self, response_ids: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether a stop string is complete with the last of these tokens; decodes only as many as that needs."""
        pieces = token_pieces(self.tokenizer)
        start, characters = len(response_ids), 0
        needed = self._longest + len(pieces[int(response_ids[-1])] or "")
        while start > 0 and characters < needed:
            start -= 1
            characters += len(pieces[int(response_ids[start])] or "")
        ids = [int(i) for i in response_ids[max(0, start - _MARGIN_TOKENS) :]]
        tail, before = self.tokenizer.decode(ids), len(self.tokenizer.decode(ids[:-1]).rstrip(_REPLACEMENT))
        # A stop string that was complete before (in the protected beginning) does not count again.
        return any(tail.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in self.stops)

    def cut(self, text: str, protected: int = 0) -> str:
        """The text before the earliest stop string; the whole text where there is none.

        Args:
            text: An answer's text.
            protected: Stop strings that end inside this many characters did not count, and stay.
        """
        first = ((text.find(stop, max(0, protected - len(stop) + 1)), stop) for stop in self.stops)
        found = [position for position, _ in first if position >= 0]
        return text[: min(found)] if found else text
