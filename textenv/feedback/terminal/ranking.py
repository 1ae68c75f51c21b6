"""Ranking by keys: levels of answers, best first; answers on one level tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from textenv.feedback.terminal.keys import Key
from textenv.feedback.terminal.sources import Shown
from textenv.feedback.terminal.tasks import LETTERS
from textenv.feedback.terminal.texts import flowing

Levels = tuple[tuple[int, ...], ...]
"""Answers by place; an answer stands on one level at most."""


def without(levels: Levels, answer: int) -> Levels:
    """The levels when an answer is taken out.

    Example:
        >>> without(((2,), (0, 1)), 2)
        ((0, 1),)
    """
    kept = (tuple(each for each in level if each != answer) for level in levels)
    return tuple(level for level in kept if level)


def level_of(levels: Levels, answer: int) -> int:
    """Where an answer stands; -1 where it is not placed."""
    return next((place for place, level in enumerate(levels) if answer in level), -1)


def move_by(levels: Levels, answer: int, step: int) -> Levels:
    """One step up (-1) or down (1): out of a tie first, then past the neighbouring level.

    Example:
        >>> move_by(((2,), (0, 1)), 1, -1)
        ((2,), (1,), (0,))
        >>> move_by(((2,), (1,)), 1, -1)
        ((1,), (2,))
    """
    place = level_of(levels, answer)
    if place < 0:
        return levels
    rest = without(levels, answer)
    if len(levels[place]) > 1:
        to = place if step < 0 else place + 1
    else:
        to = min(len(rest), max(0, place + step))
    return (*rest[:to], (answer,), *rest[to:])


def toggle_tie(levels: Levels, answer: int) -> Levels:
    """On the level above; an answer that is tied already leaves the tie downwards.

    Example:
        >>> toggle_tie(((2,), (1,)), 1)
        ((2, 1),)
        >>> toggle_tie(((2, 1),), 1)
        ((2,), (1,))
    """
    place = level_of(levels, answer)
    if place < 0:
        return levels
    if len(levels[place]) > 1:
        return move_by(levels, answer, 1)
    if place == 0:
        return levels
    return (*levels[: place - 1], (*levels[place - 1], answer), *levels[place + 1 :])


def ranks_of(levels: Levels, count: int) -> list[int | None]:
    """Competition ranks by answer: after two firsts comes a third; None where an answer is not placed.

    Example:
        >>> ranks_of(((2, 0), (1,)), 4)
        [1, 3, 1, None]
    """
    ranks: list[int | None] = [None] * count
    place = 1
    for level in levels:
        for answer in level:
            ranks[answer] = place
        place += len(level)
    return ranks


def ordinal(number: int) -> str:
    """The number of a place: 1st, 2nd, 3rd, 4th and so on."""
    return f"{number}{'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


class Rank:
    """Order K answers by their letters."""

    title = "Order the answers, best first"
    writes = False

    def __init__(self, shown: Shown) -> None:
        self.order = shown.order
        self.levels: Levels = ()
        self.picked: int | None = None

    @property
    def missing(self) -> str:
        """What is not placed."""
        return f"place {self._letters(self._waiting())} too; what you cannot tell apart may share a place (=)"

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Letters place, arrows move, = ties."""
        last = LETTERS[len(self.order) - 1].lower()
        return [
            (f"a … {last}", "place at the end, or pick"),
            ("=", "tie it with the one above"),
            ("↑ ↓", "move the picked one"),
            ("⌫", "take it out"),
        ]

    def press(self, key: Key) -> bool:
        """The same keys as on the page."""
        at = LETTERS.find(key.name.upper()) if key.is_text else -1
        if 0 <= at < len(self.order):
            self.picked = self.order[at]
            if level_of(self.levels, self.picked) < 0:
                self.levels = (*self.levels, (self.picked,))
            return True
        if self.picked is None or level_of(self.levels, self.picked) < 0:
            return False
        if key.name in ("up", "down"):
            self.levels = move_by(self.levels, self.picked, 1 if key.name == "down" else -1)
        elif key.name == "=":
            self.levels = toggle_tie(self.levels, self.picked)
        elif key.name in ("backspace", "delete"):
            self.levels = without(self.levels, self.picked)
            self.picked = self.levels[-1][-1] if self.levels else None
        else:
            return False
        return True

    def payload(self) -> dict[str, Any] | None:
        """Ranks, once every answer has a place."""
        return None if self._waiting() else {"ranks": ranks_of(self.levels, len(self.order))}

    def restore(self, payload: Mapping[str, Any]) -> None:
        """Put them in that order again."""
        ranks = payload["ranks"]
        values = sorted({rank for rank in ranks if rank is not None})
        self.levels = tuple(tuple(n for n in self.order if ranks[n] == value) for value in values)
        self.picked = None

    def state(self, width: int) -> list[Text]:
        """The order so far, and what is not placed."""
        pieces = []
        place = 1
        for level in self.levels:
            piece = Text(f"{ordinal(place)} ")
            for number, answer in enumerate(level):
                piece.append(" = " if number else "")
                chosen = answer == self.picked
                piece.append(f"[{self._letters([answer])}]" if chosen else self._letters([answer]), "bold")
            pieces.append(piece)
            place += len(level)
        waiting = self._waiting()
        if waiting:
            pieces.append(Text(f"not placed: {self._letters(waiting)}", "italic"))
        return flowing(pieces, width)

    def place_of(self, answer: int) -> str:
        """``1st``, ``2nd``, …; empty where an answer is not placed."""
        rank = ranks_of(self.levels, len(self.order))[answer]
        return "" if rank is None else ordinal(rank)

    def _waiting(self) -> list[int]:
        return [answer for answer in self.order if level_of(self.levels, answer) < 0]

    def _letters(self, answers: Sequence[int]) -> str:
        return " ".join(LETTERS[self.order.index(answer)] for answer in answers)
