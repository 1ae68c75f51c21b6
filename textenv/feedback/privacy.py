"""Personal data out of prompts before they are kept: a filter of patterns, and the protocol for a better one.

Patterns find what has a fixed form (addresses of mail and network, telephone, card and account numbers). Names and
places have none: where prompts may hold them, pass a filter that recognises entities.
"""

from __future__ import annotations

import re
from typing import Protocol


class PromptFilter(Protocol):
    """Changes a text before it is kept."""

    def __call__(self, text: str, /) -> str:
        """The text without what must not be kept."""
        ...


_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IP_ADDRESS = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_DIGITS = re.compile(r"(?<![\w.])(?:\+|\(|\b)\d(?:[ ()/-]{0,2}\d){6,18}(?!\w)")
_SECRET = re.compile(r"\b(?:sk|pk|ghp|gho|xoxb|AKIA)[-_]?[A-Za-z0-9_-]{16,}")


def mask_personal_data(text: str) -> str:
    """Replace mail and network addresses, telephone, card and account numbers, and access keys by what they were.

    A card number is told from a telephone number by its check digit. Short numbers, dates and years stay.
    """
    text = _EMAIL.sub("[email]", text)
    text = _SECRET.sub("[key]", text)
    text = _IBAN.sub("[account]", text)
    text = _IP_ADDRESS.sub("[ip]", text)
    return _DIGITS.sub(_number, text)


def _number(match: re.Match[str]) -> str:
    digits = [int(character) for character in match.group() if character.isdigit()]
    if 13 <= len(digits) <= 19 and _luhn(digits):
        return "[card]"
    separated = any(character in match.group() for character in "+ ()/-")
    if len(digits) >= 9 or (separated and not _DATE.fullmatch(match.group())):
        return "[phone]"
    return match.group()


_DATE = re.compile(r"\d{4}[-/ ]\d{1,2}[-/ ]\d{1,2}|\d{1,2}[-/ ]\d{1,2}[-/ ]\d{4}|\d{4} ?[-/] ?\d{4}")


def _luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = [2 * digit - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
