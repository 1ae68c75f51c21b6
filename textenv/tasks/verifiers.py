"""Verifiers: how right an answer is, from 0 to 1, given the item it answers.

A verifier is a function of an item and the answer that was found in the asked form; whether there is an answer at all
is the format's question.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from textenv.tasks.items import Item

Verifier = Callable[[Item, str], float]
"""Score from 0 to 1 of an answer to an item."""

_CHOICE = re.compile(r"\(?([A-Za-z])\)?(?:[.:)\s].*)?", re.DOTALL)


def same_text(item: Item, answer: str) -> float:
    """1 for one of the accepted answers; case, runs of white space and a full stop at the end do not count."""
    return float(_plain(answer) in {_plain(accepted) for accepted in item.answers})


def same_number(item: Item, answer: str) -> float:
    """1 for a number equal to an accepted one: ``1,000``, ``1000.0`` and ``+1000`` are the same."""
    given = _number(answer)
    return float(given is not None and given in {_number(accepted) for accepted in item.answers})


def same_choice(item: Item, answer: str) -> float:
    """1 for the right letter, alone or before the option's text: ``B``, ``(b)``, ``B: twenty``."""
    given = _CHOICE.fullmatch(answer.strip())
    return float(given is not None and given[1].upper() in {accepted.strip().upper() for accepted in item.answers})


VERIFIERS: dict[str, Verifier] = {"same_text": same_text, "same_number": same_number, "same_choice": same_choice}
"""Verifiers by the name that recipes use."""


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def _number(text: str) -> float | None:
    try:
        return float(text.strip().rstrip(".").replace(",", ""))
    except ValueError:
        return None
