"""Tokens to text as they come: pieces that never change again, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from textenv.answers.vocabulary import CONTEXT_TOKENS
from textenv.protocols import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what incomplete UTF-8 decodes to
_PATIENCE = 6  # tokens after which broken UTF-8 is let through: a character has at most four bytes


class TextStream:
    """The text of a growing list of tokens.

    Text is handed out when nothing can change it any more: half a character waits for its other half, and what may be
    the beginning of a stop string waits until it is none.

    Args:
        tokenizer: Decodes.
        stops: Strings that end the text; they are not part of it.
        context: Tokens that it goes on from, such as the prompt's last ones.

    Attributes:
        stopped: Whether a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids = list(context)
        # Text up to `_read` is out; what comes is decoded from `_start` on, since decoders drop a text's first blank.
        self._start, self._read = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; the text that is certain now and was not before."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._read])
        whole = self._decode(self._ids[self._start :])
        if whole.endswith(_REPLACEMENT) and len(self._ids) - self._read < _PATIENCE:
            return ""
        self._read = len(self._ids)
        if self._read - self._start > 2 * CONTEXT_TOKENS:
            self._start = self._read - CONTEXT_TOKENS
        self._held += whole[len(before) :]
        return self._release(self._stop_begins())

    def finish(self) -> str:
        """The text that was still waiting, when no token follows."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._start : self._read])
        self._held += self._decode(self._ids[self._start :])[len(before) :]
        self._read = len(self._ids)
        return self._release(len(self._held))

    def _release(self, safe: int) -> str:
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            safe = min(found)
        out, self._held = self._held[:safe], self._held[safe:]
        return out

    def _stop_begins(self) -> int:
        """Where the held text's end may be the beginning of a stop string; its length where it is not."""
        size = len(self._held)
        for begin in range(max(0, size - max(map(len, self._stops), default=1) + 1), size):
            if any(stop.startswith(self._held[begin:]) for stop in self._stops):
                return begin
        return size

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True) if ids else ""
