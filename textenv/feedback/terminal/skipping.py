"""The form that asks why an item is skipped."""

from __future__ import annotations

from rich.text import Text

from textenv.feedback.terminal.keys import Key
from textenv.feedback.terminal.tasks import marked
from textenv.feedback.terminal.texts import wrapped

REASONS = (
    "I do not understand the prompt",
    "I do not know enough about this",
    "The text is broken, or in another language",
    "It is harmful or disturbing",
    "Another reason",
)
"""The same as on the page."""
_LONGEST = 1000


class SkipForm:
    """A reason by its number, then, if somebody wants, words."""

    keys = (("1 … 5", "reason"), ("letters", "add words"), ("↵", "skip it"), ("Esc", "back"))

    def __init__(self) -> None:
        self.chosen: int | None = None
        self.words = ""

    def press(self, key: Key) -> bool:
        """Take a key; whether it means anything here."""
        if self.chosen is None or not self.words:
            if key.name in "12345" and key.is_text:
                self.chosen = int(key.name) - 1
                return True
            if self.chosen is None:
                return False
        if key.name == "backspace":
            self.words = self.words[:-1]
        elif key.is_text or key.name == "paste":
            words = self.words + (key.text.replace("\n", " ") if key.name == "paste" else key.name)
            self.words = "".join(filter(str.isprintable, words))[:_LONGEST]
        else:
            return False
        return True

    def reason(self) -> str | None:
        """What is saved; None while no reason is chosen."""
        if self.chosen is None:
            return None
        words = self.words.strip()
        return f"{REASONS[self.chosen]}: {words}" if words else REASONS[self.chosen]

    def state(self, width: int) -> list[Text]:
        """All reasons, and the words."""
        lines = [Text("Why do you skip it?", "bold")]
        for number, reason in enumerate(REASONS):
            lines += wrapped(marked(f"{number + 1} {reason}", number == self.chosen), width)
        if self.chosen is not None:
            lines += wrapped(Text("In words: ") + Text(self.words) + Text(" ", "reverse"), width)
        return lines
