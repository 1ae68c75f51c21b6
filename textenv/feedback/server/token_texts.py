"""What single tokens say: their own bytes, also of a part of a character, and where they stand in a text."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_known: weakref.WeakKeyDictionary[Any, TokenTexts] = weakref.WeakKeyDictionary()


class TokenTexts:
    """The bytes of a tokenizer's tokens.

    Args:
        tokenizer: A Hugging Face tokenizer, or anything that decodes ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._found: dict[int, bytes] = {}
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if hasattr(backend, "to_str") else ""
        self._by_bytes = _byte_characters() if '"ByteLevel"' in decoder else {}
        self._falls_back = '"ByteFallback"' in decoder
        self._added = {int(i): str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        try:
            self._anchor = list(tokenizer.encode("a", add_special_tokens=False))[-1:]
        except (ValueError, KeyError):  # a tokenizer of few characters
            self._anchor = []

    def bytes(self, token: int) -> bytes:
        """What a token adds to a text, UTF-8."""
        if token not in self._found:
            self._found[token] = self._look_up(token)
        return self._found[token]

    def text(self, token: int) -> str:
        """A token's text; of one that is part of a character its bytes, as OpenAI writes them."""
        said = self.bytes(token)
        try:
            return said.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in said)

    def by_text(self, tokens: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Log-probabilities by text; a token whose text a more probable one has is called by its number."""
        found: dict[str, float] = {}
        for token, logprob in tokens:
            text = self.text(token)
            found[f"token_id:{token}" if text in found else text] = logprob
        return found

    def _look_up(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        if self._by_bytes or self._falls_back:
            piece = str(self._tokenizer.convert_ids_to_tokens(token))
            byte = _BYTE.fullmatch(piece) if self._falls_back else None
            if byte is not None:
                return bytes([int(byte[1], 16)])
            if self._by_bytes and all(character in self._by_bytes for character in piece):
                return bytes(self._by_bytes[character] for character in piece)
        before = self._tokenizer.decode(self._anchor) if self._anchor else ""
        whole = self._tokenizer.decode([*self._anchor, token])
        return (whole.removeprefix(before) if whole.startswith(before) else self._tokenizer.decode([token])).encode()


def token_texts(tokenizer: Any) -> TokenTexts:
    """The texts of a tokenizer's tokens, made once."""
    try:
        if tokenizer not in _known:
            _known[tokenizer] = TokenTexts(tokenizer)
        return _known[tokenizer]
    except TypeError:  # no weak references to it
        return TokenTexts(tokenizer)


class Offsets:
    """Where the tokens of a growing text begin, in characters."""

    def __init__(self) -> None:
        self._text = b""
        self._at = 0

    def extend(self, text: str, tokens: Sequence[bytes]) -> list[int]:
        """Offsets of tokens that a text's next part is made of.

        Args:
            text: The part.
            tokens: Their bytes; those that do not stand in the text, such as an end token, take no room in it.
        """
        self._text += text.encode()
        begins, count = [], -1
        for byte in self._text:
            count += byte & 0xC0 != 0x80  # the first byte of a character
            begins.append(count)
        begins.append(count + 1)
        found = []
        for token in tokens:
            found.append(begins[min(self._at, len(begins) - 1)])
            rest = self._text[self._at : self._at + len(token)]
            if token.startswith(rest):  # also at the text's end, whose last token may go on beyond it
                self._at += len(token)
            elif self._at == 0 and self._text.startswith(token.lstrip(b" ")):  # decoders drop a first blank
                self._at = len(token.lstrip(b" "))
        return found

    def catch_up(self) -> None:
        """What comes next begins where the text ends now."""
        self._at = len(self._text)


def _byte_characters() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + number): byte for number, byte in enumerate(others)}
