"""Stop strings: matched on text, also where one spans several tokens, without decoding on every step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from textenv.answers.vocabulary import CONTEXT_TOKENS, vocabulary
from textenv.protocols import Tokenizer

_REPLACEMENT = "�"  # what incomplete UTF-8 decodes to
_MARGIN_TOKENS = 4  # a character of UTF-8 has at most 4 bytes, so at most 4 byte-level tokens


class _Pieces:
    """Texts that tokens add after other text, made when they are first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size, absent = vocabulary(tokenizer)
        self.gaps = frozenset(absent.tolist())
        ids = (i for i in range(self.size) if i not in self.gaps)
        self.anchor = next((i for i in ids if _plain(tokenizer.decode([i]))), None)
        self.before = "" if self.anchor is None else tokenizer.decode([self.anchor])
        self.known: dict[int, str | None] = dict.fromkeys(self.gaps, "")

    def of(self, tokenizer: Tokenizer, token: int) -> str | None:
        if token not in self.known:
            text = tokenizer.decode([token] if self.anchor is None else [self.anchor, token])
            self.known[token] = text[len(self.before) :] if text.startswith(self.before) else None
        return self.known[token]


_pieces: weakref.WeakKeyDictionary[Tokenizer, _Pieces] = weakref.WeakKeyDictionary()


def token_piece(tokenizer: Tokenizer, token: int) -> str | None:
    """Text that a token adds after other text; None where the tokenizer does not say (remembered per tokenizer).

    A token decoded alone may lose its leading space, so it is decoded after an ordinary one. Ids that are no tokens add
    nothing.
    """
    found = _pieces.get(tokenizer)
    if found is None or found.size != vocabulary(tokenizer).size:
        found = _pieces[tokenizer] = _Pieces(tokenizer)
    return found.of(tokenizer, token)


def token_pieces(tokenizer: Tokenizer) -> list[str | None]:
    """:func:`token_piece` of every id."""
    return [token_piece(tokenizer, token) for token in range(vocabulary(tokenizer).size)]


def _plain(text: str) -> bool:
    return text.isascii() and text.isalnum()


class StopMatcher:
    """Says when an answer's text contains a stop string.

    Args:
        tokenizer: Decodes answers.
        stops: The stop strings, none of them empty.
        decode_after: What tokens say after others; None decodes them alone.
        silent: Ids that are left out of an answer's text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        decode_after: Callable[[Sequence[int], Sequence[int]], str] | None = None,
        silent: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self._longest = max(map(len, self.stops))
        self._decode_after = decode_after or (lambda context, ids: tokenizer.decode(ids))
        self._silent = frozenset(silent)
        self._sizes: dict[int, int] = dict.fromkeys(self._silent, 0)

    @cached_property
    def could_end(self) -> NDArray[np.bool_]:
        """True for tokens after which some stop string could be complete, shape ``(tokens,)``; made at first use."""
        return np.array([self.could_end_with(token) for token in range(vocabulary(self.tokenizer).size)])

    def could_end_with(self, token: int) -> bool:
        """Whether some stop string could be complete after this token."""
        piece = token_piece(self.tokenizer, token)
        if piece is None:
            return True
        if _REPLACEMENT in piece and any(not stop.isascii() for stop in self.stops):
            return True
        return any(
            stop in piece or any(stop.endswith(piece[:k]) for k in range(1, min(len(piece), len(stop)) + 1))
            for stop in self.stops
        )

    def matches(
        self, response_ids: Sequence[int] | NDArray[np.int64], context: Sequence[int] | NDArray[np.int64] = ()
    ) -> bool:
        """Whether a stop string is complete with the last of these tokens; decodes only as many as that needs.

        Args:
            response_ids: The turn's tokens.
            context: Tokens before the turn; stop strings do not begin in them.
        """
        start, characters = len(response_ids), 0
        needed = self._longest + self._size(int(response_ids[-1]))
        while start > 0 and characters < needed:
            start -= 1
            characters += self._size(int(response_ids[start]))
        start = max(0, start - _MARGIN_TOKENS)
        lead = [*context[-CONTEXT_TOKENS:], *response_ids[max(0, start - CONTEXT_TOKENS) : start]]
        ids, lead = [int(i) for i in response_ids[start:]], [int(i) for i in lead[-CONTEXT_TOKENS:]]
        tail = self._decode_after(lead, ids)
        before = len(self._decode_after(lead, ids[:-1]).rstrip(_REPLACEMENT)) if len(ids) > 1 else 0
        # A stop string that was complete before (in the protected beginning) does not count again.
        return any(tail.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in self.stops)

    def _size(self, token: int) -> int:
        """Characters that a token adds to an answer's text."""
        found = self._sizes.get(token)
        if found is None:
            found = self._sizes[token] = len(token_piece(self.tokenizer, token) or "")
        return found

    def cut(self, text: str, protected: int = 0) -> str:
        """The text before the earliest stop string; the whole text where there is none.

        Args:
            text: An answer's text.
            protected: Stop strings that end inside this many characters did not count, and stay.
        """
        first = ((text.find(stop, max(0, protected - len(stop) + 1)), stop) for stop in self.stops)
        found = [position for position, _ in first if position >= 0]
        return text[: min(found)] if found else text
