"""What a session looks like: a header, a part that scrolls, and below it where the task stands and what keys do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

from textenv.feedback.pages.guide import DEFAULTS, guide
from textenv.feedback.store import Progress
from textenv.feedback.terminal.ranking import Rank
from textenv.feedback.terminal.sources import Shown
from textenv.feedback.terminal.tasks import LETTERS, Task
from textenv.feedback.terminal.texts import flowing, harmless, paragraphs, wrapped
from textenv.feedback.terminal.tty import Size

_HEADING = "bold cyan"
_FEWEST = 3
"""Lines of the scrolled part that stay, however much the rest needs."""


class Body(NamedTuple):
    """The part that scrolls.

    Attributes:
        lines: All of it.
        marks: Where its parts begin: instructions, prompt, answers.
    """

    lines: list[Text]
    marks: list[int]


def body(shown: Shown, width: int, *, instructions: bool) -> Body:
    """An item as lines; texts of people and policies are shown as text, whatever they hold."""
    lines: list[Text] = []
    marks: list[int] = []

    def begin(title: str) -> None:
        if lines:
            lines.append(Text())
        marks.append(len(lines))
        lines.append(Text(title, _HEADING))

    if instructions:
        begin("Instructions")
        for number, paragraph in enumerate(paragraphs(guide(shown.instructions or DEFAULTS[shown.kind]))):
            if number:
                lines.append(Text())
            lines.extend(wrapped(paragraph, width))
    begin("Conversation" if shown.messages else "Prompt")
    for message in shown.messages:
        lines.extend(wrapped(Text(f"{harmless(message['role'])}:", "bold"), width))
        lines.extend(wrapped(harmless(message["content"]), width, indent=2))
    if not shown.messages:
        lines.extend(wrapped(harmless(shown.prompt), width))
    for letter, text in zip(LETTERS, shown.answers, strict=False):
        begin("Answer" if len(shown.answers) == 1 else f"Answer {letter}")
        lines.extend(wrapped(harmless(text), width))
    return Body(lines, marks)


def headed(found: Body, shown: Shown, task: Task) -> list[Text]:
    """The lines with the places that answers have been given so far."""
    lines = list(found.lines)
    if isinstance(task, Rank):
        for mark, answer in zip(found.marks[-len(shown.order) :], shown.order, strict=True):
            place = task.place_of(answer)
            lines[mark] = lines[mark] + Text(f"  {place}" if place else "", "bold green")
    return lines


def header(title: str, rater: str, progress: Progress, width: int) -> Text:
    """What is asked at the left, how far it is at the right; less of it where there is no room."""
    done = f"{progress.labelled} done"
    left = f"{progress.remaining} left"
    skipped = f"{progress.skipped} skipped"
    for parts in ([harmless(rater), done, skipped, left], [done, skipped, left], [done, left], [left], []):
        right = " · ".join(parts)
        if len(title) + len(right) + 2 <= width:
            break
    line = Text(title, "bold")
    line.append(" " * max(1, width - line.cell_len - Text(right).cell_len) + right, "dim")
    line.truncate(width)
    return line


def key_line(keys: Sequence[tuple[str, str]], width: int, *, most: int = 2) -> list[Text]:
    """Keys and what they do, in a few lines; those that find no room are in the help."""
    pieces = [Text(name, "bold") + Text(f" {what}") for name, what in keys]
    while len(lines := flowing(pieces, width, "  ")) > most and len(pieces) > 1:
        pieces.pop()
    return lines


def rule(width: int, hidden_above: int, hidden_below: int) -> Text:
    """Between the scrolled part and the rest; says how much of it is out of sight."""
    told = []
    if hidden_above:
        told.append(f"↑ {hidden_above}")
    if hidden_below:
        told.append(f"↓ {hidden_below} more: space" if width < 60 else f"↓ {hidden_below} more lines: space")
    words = f" {' · '.join(told)} " if told else ""
    line = Text("──" + words, "dim")
    line.append("─" * max(0, width - line.cell_len))
    return line


def frame(top: Text, scrolled: Sequence[Text], at: int, below: Sequence[Text], size: Size) -> tuple[list[Text], int]:
    """The whole screen, and how many lines of the scrolled part are in sight.

    Args:
        top: Header.
        scrolled: The part that scrolls.
        at: Its first line in sight.
        below: What stands under it; cut where it needs too much room.
        size: Of the terminal.
    """
    below = list(below[: max(1, size.rows - 2 - _FEWEST)])
    height = size.rows - 2 - len(below)
    part = list(scrolled[at : at + height])
    blank = [Text()] * (height - len(part))
    line = rule(size.columns - 1, at, max(0, len(scrolled) - at - height))
    return [top, *part, *blank, line, *below], height
