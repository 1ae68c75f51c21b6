"""Bytes from a terminal as keys."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

_PASTE_BEGIN, _PASTE_END = "\x1b[200~", "\x1b[201~"
_SEQUENCES = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[7~": "home",
    "[4~": "end",
    "[8~": "end",
    "[3~": "delete",
    "[5~": "pageup",
    "[6~": "pagedown",
    "[Z": "shift-tab",
}
_SEQUENCES |= {"O" + name[1]: key for name, key in _SEQUENCES.items() if name[1:] in "ABCDHF"}
_CONTROLS = {"\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", "\x00": "ctrl-space"}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was pressed.

    Attributes:
        name: The character itself, or ``enter``, ``up``, ``ctrl-c``, ``esc``, ``paste``, … .
        text: What was pasted.
    """

    name: str
    text: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it is one printable character."""
        return len(self.name) == 1


class KeyReader:
    """Cuts what a terminal sends into keys; pasted text is one key, so that it cannot act as many."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[Key]:
        """The keys that are complete now."""
        self._rest += self._decoder.decode(data)
        found = []
        while self._rest:
            key, used = self._first(self._rest)
            if not used:
                break
            self._rest = self._rest[used:]
            if key is not None:
                found.append(key)
        return found

    @property
    def pending(self) -> bool:
        """Whether a sequence has begun that is not complete."""
        return bool(self._rest)

    def give_up(self) -> list[Key]:
        """Nothing more came: a lone escape character is the key, other beginnings are dropped."""
        if self._rest.startswith(_PASTE_BEGIN):
            return []
        rest, self._rest = self._rest, ""
        return [Key("esc")] if rest == "\x1b" else []

    def _first(self, text: str) -> tuple[Key | None, int]:
        """The first key (None: of no use) and how many characters it takes; 0 where it is not complete."""
        if text[0] != "\x1b":
            name = _CONTROLS.get(text[0])
            if name is None and text[0] < " ":
                name = f"ctrl-{chr(ord(text[0]) + 96)}"
            return (Key(name or text[0]) if name or text[0].isprintable() else None), 1
        if text.startswith(_PASTE_BEGIN):
            end = text.find(_PASTE_END)
            pasted = text[len(_PASTE_BEGIN) : end].replace("\r\n", "\n").replace("\r", "\n")
            return (Key("paste", pasted), end + len(_PASTE_END)) if end >= 0 else (None, 0)
        if len(text) == 1:
            return None, 0
        if text[1] == "\x1b":
            return Key("esc"), 1
        if text[1] not in "[O":
            return None, 2  # Alt and a key: nothing here
        for end in range(2, len(text)):
            if "@" <= text[end] <= "~":
                name = _SEQUENCES.get(text[1 : end + 1])
                return (None if name is None else Key(name)), end + 1
        return None, 0
