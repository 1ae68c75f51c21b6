"""Three of the four tasks (ranking has a module of its own): what keys do, and what would be saved.

A task knows nothing of the screen: it takes keys, tells its state as lines of text, and gives the payload of a label in
the item's own numbers of answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from rich.text import Text

from textenv.feedback.terminal.keys import Key
from textenv.feedback.terminal.sources import Shown
from textenv.feedback.terminal.texts import flowing, harmless, wrapped

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOSEN = "reverse bold"


class Task(Protocol):
    """One item under a person's fingers."""

    title: str
    missing: str
    writes: bool

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Keys and what they do, the most important first."""
        ...

    def press(self, key: Key) -> bool:
        """Take a key; whether it means anything here."""
        ...

    def payload(self) -> dict[str, Any] | None:
        """What would be saved; None while something is missing."""
        ...

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Show a label that was taken back."""
        ...

    def state(self, width: int) -> list[Text]:
        """Where it stands."""
        ...


def marked(text: str, chosen: bool) -> Text:
    """A choice; the chosen one is in brackets, for terminals without colours."""
    return Text(f"[{text}]", _CHOSEN) if chosen else Text(f" {text} ")


class Rate:
    """One answer on the item's scale.

    Up to eleven steps are chosen by one key each (0 is ten where the scale ends there); on longer scales the number is
    typed.
    """

    title = "Rate the answer"
    missing = "choose a number first"
    writes = False

    def __init__(self, shown: Shown) -> None:
        assert shown.scale is not None
        self.scale = shown.scale
        self.chosen: int | None = None
        self._typed = ""

    @property
    def _by_key(self) -> dict[str, int]:
        low, high = self.scale.low, self.scale.high
        if 0 <= low and high <= 9:
            return {str(number): number for number in range(low, high + 1)}
        if low == 1 and high == 10:
            return {str(number % 10): number for number in range(1, 11)}
        return {}

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Numbers and arrows."""
        low, high = self.scale.low, self.scale.high
        if self._by_key:
            return [(f"{low} … {'0' if high == 10 else high}", "choose"), ("← →", "one less, one more")]
        return [(f"digits{' and -' if low < 0 else ''}", f"a number from {low} to {high}"), ("← →", "change it")]

    def press(self, key: Key) -> bool:
        """Digits choose, arrows change."""
        low, high = self.scale.low, self.scale.high
        if key.name in ("left", "right"):
            step = 1 if key.name == "right" else -1
            middle = (low + high) // 2
            self.chosen = middle if self.chosen is None else min(high, max(low, self.chosen + step))
            self._typed = ""
            return True
        if self._by_key:
            if key.name not in self._by_key:
                return False
            self.chosen = self._by_key[key.name]
            return True
        return self._type(key)

    def _type(self, key: Key) -> bool:
        if key.name == "backspace":
            self._typed = self._typed[:-1]
        elif key.name.isascii() and (key.name.isdecimal() or (key.name == "-" and self.scale.low < 0)):
            longer = self._typed + key.name
            fits = longer == "-" or (longer.lstrip("-").isdecimal() and len(longer) < 6)
            # A number that cannot go on begins a new one.
            self._typed = longer if fits and self._within(longer) else key.name
        else:
            return False
        whole = self._typed.lstrip("-").isdecimal() and self.scale.low <= int(self._typed) <= self.scale.high
        self.chosen = int(self._typed) if whole else None
        return True

    def _within(self, typed: str) -> bool:
        number = 0 if typed == "-" else int(typed)
        return abs(number) <= max(abs(self.scale.low), abs(self.scale.high))

    def payload(self) -> dict[str, Any] | None:
        """The score."""
        return None if self.chosen is None else {"score": self.chosen}

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Choose it again."""
        self.chosen, self._typed = payload["score"], ""

    def state(self, width: int) -> list[Text]:
        """All steps with their anchors, or the number and what the anchors mean."""
        anchors = self.scale.anchors
        if self._by_key:
            names = ((n, f"{n} {harmless(anchors.get(n, ''))}".strip()) for n in sorted(self._by_key.values()))
            return flowing([marked(name, number == self.chosen) for number, name in names], width, " ")
        number = self._typed if self.chosen is None else str(self.chosen)
        ends = [Text(f"{n} {harmless(text)}") for n, text in sorted(anchors.items())]
        score = Text("Score: ") + Text(f"[{number or '…'}]", _CHOSEN if self.chosen is not None else "")
        return flowing([score, *ends], width)


class Compare:
    """Two answers: which is better, by how much, and whether both are bad."""

    title = "Compare two answers"
    missing = "choose first which answer is better"
    writes = False
    _WORDS: ClassVar = ("much", "clearly", "slightly", "equal", "slightly", "clearly", "much")

    def __init__(self, shown: Shown) -> None:
        self.order = shown.order
        self.at: int | None = None
        self.both_bad = False

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Letters, arrows and digits."""
        return [
            ("a b", "A or B is better"),
            ("← →", "by more or less"),
            ("t", "equal"),
            ("x", "both are bad"),
            ("1 … 7", "from left to right"),
        ]

    def press(self, key: Key) -> bool:
        """The same keys as on the page."""
        name = key.name.lower()
        if name in "1234567" and key.is_text:
            self.at = int(name) - 1
        elif name in ("left", "right"):
            step = -1 if name == "left" else 1
            self.at = min(6, max(0, (3 if self.at is None else self.at) + step))
        elif name in ("a", "b", "t", "="):
            self.at = {"a": 1, "b": 5}.get(name, 3)
        elif name == "x":
            self.both_bad = not self.both_bad
            self.at = 3 if self.at is None else self.at
        else:
            return False
        return True

    def payload(self) -> dict[str, Any] | None:
        """Preference, margin, both bad."""
        if self.at is None:
            return None
        preferred = None if self.at == 3 else self.order[int(self.at > 3)]
        return {"preferred": preferred, "margin": abs(self.at - 3), "both_bad": self.both_bad}

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Choose it again."""
        self.both_bad = bool(payload.get("both_bad"))
        preferred, margin = payload["preferred"], max(1, payload.get("margin", 0))
        self.at = 3 if preferred is None else 3 + margin * (1 if self.order[1] == preferred else -1)

    def state(self, width: int) -> list[Text]:
        """Seven steps from A to B, and the choice in words."""
        steps = [marked(f"{i + 1} {word}", i == self.at) for i, word in enumerate(self._WORDS)]
        steps[0], steps[-1] = Text("A", "bold") + steps[0], steps[-1] + Text("B", "bold")
        return [*flowing(steps, width, ""), *wrapped(Text(self._said(), "italic"), width)]

    def _said(self) -> str:
        if self.at is None:
            said = "Which answer is better?"
        elif self.at == 3:
            said = "About equal"
        else:
            said = f"{'A' if self.at < 3 else 'B'} is {self._WORDS[self.at]} better"
        return said + (", and both are bad" if self.both_bad else "")


class Demonstrate:
    """An answer that the person writes, in a field of its own."""

    title = "Write an answer"
    missing = "write an answer first"

    def __init__(self, shown: Shown, draft: str = "") -> None:
        self.text = draft
        self.cursor = len(draft)
        self.writes = True

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Depends on whether letters are text now."""
        if self.writes:
            return [("Ctrl-D", "save"), ("Esc", "other keys"), ("Ctrl-E", "your editor")]
        return [("w", "write on"), ("e", "your editor")]

    def press(self, key: Key) -> bool:
        """Text, arrows and deletions while writing; `w` goes back to it."""
        if not self.writes:
            self.writes = key.name in ("w", "W")
            return self.writes
        if key.name == "esc":
            self.writes = False
        elif key.is_text or key.name in ("enter", "tab", "paste"):
            self._insert({"enter": "\n", "tab": "\t", "paste": key.text}.get(key.name, key.name))
        elif key.name in ("backspace", "delete"):
            begin = self.cursor - (key.name == "backspace")
            if 0 <= begin < len(self.text):
                self.text, self.cursor = self.text[:begin] + self.text[begin + 1 :], begin
        elif key.name in ("left", "right"):
            self.cursor = min(len(self.text), max(0, self.cursor + (1 if key.name == "right" else -1)))
        elif key.name in ("home", "end", "up", "down"):
            self._move(key.name)
        else:
            return False
        return True

    def _insert(self, text: str) -> None:
        text = "".join(each for each in text if each in "\n\t" or each.isprintable())
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def _move(self, where: str) -> None:
        """To the ends of the line, or to the line before or after."""
        begin = self.text.rfind("\n", 0, self.cursor) + 1
        end = self.text.find("\n", self.cursor)
        end = len(self.text) if end < 0 else end
        if where == "home":
            self.cursor = begin
        elif where == "end":
            self.cursor = end
        elif where == "up" and begin:
            above = self.text.rfind("\n", 0, begin - 1) + 1
            self.cursor = min(begin - 1, above + self.cursor - begin)
        elif where == "down" and end < len(self.text):
            below = self.text.find("\n", end + 1)
            self.cursor = min(len(self.text) if below < 0 else below, end + 1 + self.cursor - begin)

    def replace(self, text: str) -> None:
        """Take the text that the person's editor left."""
        self.text, self.cursor = text, len(text)

    def payload(self) -> dict[str, Any] | None:
        """The text."""
        return {"text": self.text} if self.text.strip() else None

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Write it again."""
        self.replace(payload["text"])

    def state(self, width: int) -> list[Text]:
        """How many words."""
        count = len(self.text.split())
        return wrapped(Text(f"Your answer: {count} word{'' if count == 1 else 's'}", "italic"), width)

    def field(self, width: int) -> tuple[list[Text], int]:
        """The text with its cursor as lines, and the line of the cursor."""
        before, after = harmless(self.text[: self.cursor]), harmless(self.text[self.cursor :])
        under = after[:1] if after and after[0] != "\n" else " "
        rest = after[1:] if after and after[0] != "\n" else after
        lines = wrapped(Text(before) + Text(under, "reverse" if self.writes else "") + Text(rest), width)
        return lines, max(0, len(wrapped(Text(before + under.replace(" ", "_")), width)) - 1)
