"""Tokenizers: one in a few lines of Python for tests and toy tasks, and those that folders and the hub have."""

from __future__ import annotations

import string
from collections.abc import Sequence

from textenv.errors import ConfigError, DataError

_DEFAULT_PIECES = tuple(string.ascii_lowercase + string.ascii_uppercase + string.digits + " \n.,;:!?'\"-_/()<>#@&+*=")


class ToyTokenizer:
    """Splits a text into known pieces, the longest first.

    Ids: 0 pads, 1 ends a response, and the pieces follow from 2 on.

    Args:
        pieces: The vocabulary; by default the letters, digits and punctuation of ASCII.
        pad: False for a tokenizer without a pad token, as GPT-2's.

    Raises:
        ConfigError: If a piece is empty or comes twice.
    """

    def __init__(self, pieces: Sequence[str] = _DEFAULT_PIECES, *, pad: bool = True) -> None:
        if len(set(pieces)) != len(pieces) or not all(pieces):
            raise ConfigError("the pieces of a ToyTokenizer must be distinct and not empty")
        self.pieces = ("<pad>", "<eos>", *pieces)
        self.pad_token_id: int | None = 0 if pad else None
        self.eos_token_id: int | None = 1
        self._ids = {piece: i for i, piece in enumerate(self.pieces) if i > 1}
        self._longest = max(map(len, pieces), default=0)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids; there are no special tokens to add.

        Raises:
            DataError: If a part of the text is no known piece.
        """
        del add_special_tokens
        ids, start = [], 0
        while start < len(text):
            for length in range(min(self._longest, len(text) - start), 0, -1):
                if (token := self._ids.get(text[start : start + length])) is not None:
                    ids.append(token)
                    start += length
                    break
            else:
                raise DataError(f"the toy tokenizer has no piece for {text[start]!r} at position {start} of {text!r}")
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        return "".join(self.pieces[i] for i in token_ids if i > 1 or not skip_special_tokens)
