"""What all adapters share: the check of what came back, and the count of what had to be replaced."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError, RewardError

_log = logging.getLogger(__name__)
_SHOWN_CHARACTERS = 60


def shown(text: Any) -> str:
    """A text, or a list of messages, as an error message quotes it."""
    text = str(text)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")


def checked_scores(
    values: Any, prompts: Sequence[str], responses: Sequence[str], *, source: str
) -> NDArray[np.float32]:
    """What a source returned, as one finite float32 per response.

    Args:
        values: What came back.
        prompts: Texts of the prompts.
        responses: Texts of the responses, as many.
        source: Who returned it, as the beginning of an error message.

    Raises:
        RewardError: If it is not one finite number per response; names the first bad one.
    """
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RewardError(f"{source} returned {str(values)[:80]!r}, expected {len(responses)} numbers.") from error
    if scores.shape != (len(responses),):
        raise RewardError(f"{source} returned an array of shape {scores.shape} for {len(responses)} responses.")
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if not np.isfinite(narrow).all():
        bad = int(np.argmin(np.isfinite(narrow)))
        raise RewardError(
            f"{source} returned {scores[bad]} for prompt {shown(prompts[bad])}, response {shown(responses[bad])}; "
            "expected a finite number."
        )
    return narrow


class Fallbacks:
    """The score of a response that could not be scored, and how often it was used.

    Args:
        score: The score; None: there is none, and such a response is an error.
        source: Who could not score, for the log.

    Raises:
        ConfigError: If the score is not finite.
    """

    def __init__(self, score: float | None, source: str) -> None:
        if score is not None and not np.isfinite(score):
            raise ConfigError(f"`fallback_score` must be finite or None, got {score}.")
        self.score = score
        self.source = source
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Responses that got the fallback score so far."""
        return self._count

    def use(self, reason: str, *, responses: int = 1) -> float:
        """The fallback score for some responses; counted and logged.

        The first, the tenth, the hundredth … time is a warning, the others are only for the debug log.

        Raises:
            RewardError: If there is no fallback score.
        """
        if self.score is None:
            raise RewardError(f"{self.source}: {reason} Give a `fallback_score` if a run should go on after that.")
        with self._lock:
            before, self._count = self._count, self._count + responses
            after = self._count
        level = logging.WARNING if len(str(after)) > len(str(before)) or before == 0 else logging.DEBUG
        _log.log(level, "%s: %s Fallback score %g, %d times so far.", self.source, reason, self.score, after)
        return self.score

    def __getstate__(self) -> dict[str, Any]:
        return {"score": self.score, "source": self.source, "_count": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
