"""Rules as reward models: a pattern, a length, a format, keywords. No training, no randomness.

Each is a frozen dataclass whose score lies in [0, 1] (counts and penalties say otherwise), so that a weighted sum of
them (`reward_models.WeightedSum`) reads like the sentence that describes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.base import paired
from textenv.errors import ConfigError
from textenv.settings import NonNegativeFloat, PositiveInt, Settings

_WORD = re.compile(r"\w[\w'’-]*")


class Rule(Settings):
    """Shared calling convention; a subclass says what one response scores."""

    KIND: ClassVar[str]

    def one(self, prompt: str, response: str) -> float:
        """Score of one response."""
        raise NotImplementedError

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Scores, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        return np.array([self.one(prompt, response) for prompt, response in paired(prompts, responses)], np.float32)

    def to_spec(self) -> dict[str, Any]:
        """What `reward_models.load_reward_model` builds it from."""
        return {"kind": self.KIND, **asdict(self)}  # type: ignore[call-overload]  # every rule is a dataclass


@dataclass(frozen=True)
class RegexRule(Rule):
    """Whether, or how often, a pattern occurs in the response.

    Attributes:
        pattern: A regular expression, searched for; begin it with ``^`` or ``(?i)`` as needed.
        mode: ``"found"`` scores 1 or 0, ``"absent"`` the opposite, ``"full"`` asks for the whole response (without
            blanks around it), ``"count"`` counts the matches.
        most: At most so many matches count.

    Raises:
        ConfigError: If the pattern is no regular expression, or a setting is out of its range.
    """

    KIND: ClassVar[str] = "regex"
    pattern: str
    mode: Literal["found", "absent", "full", "count"] = "found"
    most: PositiveInt = 1_000_000

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(f"`pattern` {self.pattern!r} is no regular expression: {error}.") from error

    def one(self, prompt: str, response: str) -> float:
        """Score of one response."""
        if self.mode == "count":
            return float(min(self.most, sum(1 for _ in re.finditer(self.pattern, response))))
        if self.mode == "full":
            return float(re.fullmatch(self.pattern, response.strip()) is not None)
        return float((re.search(self.pattern, response) is not None) == (self.mode == "found"))


@dataclass(frozen=True)
class LengthRule(Rule):
    """How near the response's length is to a target: 1 within the tolerance, then falling.

    The score is ``1 / (1 + excess / scale)``, where ``excess`` is what the distance exceeds the tolerance by.

    Attributes:
        target: Wanted length.
        unit: What is counted.
        tolerance: Distance that costs nothing.
        scale: Excess at which the score is one half; the target (at least 1) for 0.

    Raises:
        ConfigError: If a number is negative or the unit unknown.
    """

    KIND: ClassVar[str] = "length"
    target: NonNegativeFloat
    unit: Literal["words", "characters", "sentences", "lines"] = "words"
    tolerance: NonNegativeFloat = 0.0
    scale: NonNegativeFloat = 0.0

    def one(self, prompt: str, response: str) -> float:
        """Score of one response."""
        excess = max(0.0, abs(measure(response, self.unit) - self.target) - self.tolerance)
        return 1 / (1 + excess / (self.scale or max(1.0, self.target)))


def measure(text: str, unit: str) -> int:
    """Length of a text in words, characters, sentences or non-empty lines."""
    if unit == "words":
        return len(_WORD.findall(text))
    if unit == "sentences":
        return len([part for part in re.split(r"[.!?…]+(?:\s|$)", text) if _WORD.search(part)])
    if unit == "lines":
        return len([line for line in text.splitlines() if line.strip()])
    return len(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


FORMATS: dict[str, Callable[[str], bool]] = {
    "not_empty": lambda text: bool(text.strip()),
    "json": _is_json,
    "one_line": lambda text: len(text.strip().splitlines()) == 1,
    "sentence_end": lambda text: text.rstrip().endswith((".", "!", "?", "…", '."', '!"', '?"')),
    "bullets": lambda text: all(re.match(r"\s*(?:[-*•]|\d+[.)])\s", x) for x in text.splitlines() if x.strip()),
    "no_markup": lambda text: re.search(r"(?m)^#{1,6}\s|\*\*|```|^\s*[-*•]\s|</?\w+>", text) is None,
}
"""The formats that `FormatRule` knows. An empty response satisfies ``bullets`` and ``no_markup`` only."""


@dataclass(frozen=True)
class FormatRule(Rule):
    """1 where the response has a format, else 0.

    Attributes:
        format: One of `FORMATS`.

    Raises:
        ConfigError: If the format is unknown.
    """

    KIND: ClassVar[str] = "format"
    format: str = "not_empty"

    def __post_init__(self) -> None:
        """Checks the format."""
        super().__post_init__()
        if self.format not in FORMATS:
            raise ConfigError(f"`format` must be one of {', '.join(FORMATS)}; got {self.format!r}.")

    def one(self, prompt: str, response: str) -> float:
        """Score of one response."""
        return float(FORMATS[self.format](response))


@dataclass(frozen=True)
class KeywordRule(Rule):
    """Which of some words and phrases occur in the response, as whole words.

    Attributes:
        keywords: Words and phrases.
        mode: ``"share"`` scores the share of them that occurs, ``"all"`` and ``"any"`` 1 or 0, ``"none"`` 1 where not
            one occurs.
        ignore_case: Capitals do not matter.

    Raises:
        ConfigError: If there are no keywords, one is blank, or the mode is unknown.
    """

    KIND: ClassVar[str] = "keywords"
    keywords: tuple[str, ...]
    mode: Literal["share", "all", "any", "none"] = "share"
    ignore_case: bool = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if isinstance(self.keywords, str):
            raise ConfigError(f"`keywords` must be a list of texts, got the one text {self.keywords!r}.")
        object.__setattr__(self, "keywords", tuple(self.keywords))
        if not self.keywords or not all(isinstance(word, str) and word.strip() for word in self.keywords):
            raise ConfigError(f"`keywords` must be texts, at least one and none blank; got {self.keywords!r}.")

    def one(self, prompt: str, response: str) -> float:
        """Score of one response."""
        flags = re.IGNORECASE if self.ignore_case else 0
        found = [bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", response, flags)) for word in self.keywords]
        if self.mode == "share":
            return sum(found) / len(found)
        return float({"all": all(found), "any": any(found), "none": not any(found)}[self.mode])


RULES: dict[str, type[Rule]] = {rule.KIND: rule for rule in (RegexRule, LengthRule, FormatRule, KeywordRule)}
