"""`RatedText`: one text with every rating that people gave it, and the rule that splits texts into train and test.

Both the human ratings and the built-in generator produce this record, so whatever follows does not care where it
came from. Nothing here reads files.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, get_args

from textenv.errors import ConfigError

Split = Literal["train", "validation", "test"]
Domain = Literal["movies", "amazon", "tweets", "nyt"]

SPLITS: tuple[Split, ...] = get_args(Split)
DOMAINS: tuple[Domain, ...] = get_args(Domain)
RATING_LIMIT = 4
"""Ratings are whole numbers from -4 (extremely negative) to +4 (extremely positive)."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class RatedText:
    """A text and the ratings that people gave it.

    Attributes:
        text: The text, white space collapsed to single blanks.
        domain: Where it comes from, one of `DOMAINS`.
        mean: Arithmetic mean of `ratings`.
        ratings: Every single rating, whole numbers from -4 to 4, in no meaningful order (raters are anonymous).
        split: ``train``, ``validation`` or ``test``; see `split_of`.
        id: Unique name, ``<domain>/<number in its file>``.
    """

    text: str
    domain: Domain
    mean: float
    ratings: tuple[int, ...]
    split: Split
    id: str


def split_of(text: str) -> Split:
    """The split a text belongs to: 80 % train, 10 % validation, 10 % test, decided by the text alone.

    The SHA-256 of the text's case-folded words (runs of letters, digits and underscores, joined by blanks; the
    case-folded text itself if it has none) is read as a number in [0, 1): below 0.8 is train, below 0.9 validation,
    the rest test. Texts that differ only in case, punctuation or white space share a split, in whichever domain.
    """
    folded = text.casefold()
    key = " ".join(_WORD.findall(folded)) or " ".join(folded.split())
    position = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    if position < 0.8:
        return "train"
    return "validation" if position < 0.9 else "test"


def check_domains(domains: tuple[str, ...] | list[str] | None) -> tuple[Domain, ...]:
    """The asked-for domains in the order of `DOMAINS`; all of them for None.

    Raises:
        ConfigError: If a name is unknown or none is given.
    """
    if domains is None:
        return DOMAINS
    unknown = [name for name in domains if name not in DOMAINS]
    if unknown or not domains:
        raise ConfigError(f"`domains` must name some of {', '.join(DOMAINS)}; got {list(domains)!r}.")
    return tuple(name for name in DOMAINS if name in domains)


def check_split(split: str | None) -> Split | None:
    """The split, checked; None stands for all three.

    Raises:
        ConfigError: If the name is unknown.
    """
    if split is None:
        return None
    for name in SPLITS:
        if split == name:
            return name
    raise ConfigError(f"`split` must be one of {', '.join(SPLITS)} or None, got {split!r}.")
