"""Gold models whose truth is known by construction, and texts for them to judge.

Any reward model or function of prompts and responses can be the gold; the ones here need no training, no download and
milliseconds. Raters that see the gold through noise are in `reward_models.simulation.raters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError, RewardError

Gold = Callable[[list[str], list[str]], Any]
"""A function of prompts and responses; an object with `score` serves too."""

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def gold_scores(gold: Any, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
    """Scores of a gold: of its `score` if it has one, else of itself as a function; shape ``(n,)``.

    Raises:
        RewardError: If they are not one finite number per response.
    """
    judge = gold.score if hasattr(gold, "score") else gold
    scores = np.asarray(judge(list(prompts), list(responses)), dtype=np.float64)
    if scores.shape != (len(responses),) or not np.isfinite(scores).all():
        raise RewardError(f"the gold must give {len(responses)} finite scores, got shape {scores.shape}.")
    return scores


class WordGold:
    """Adds up the worth of a response's words; words it does not know are worth nothing.

    With a repetition penalty it is more than a bag of words: a proxy that learned the words' worth from texts that
    hardly repeat themselves rises for ever by repeating the best word, while this gold falls.

    Args:
        weights: Worth of each word.
        repetition: Taken off for each word that stood in the response before.
        too_long: Taken off for each word beyond `longest`.
        longest: Words that a response may have.
    """

    def __init__(
        self, weights: Mapping[str, float], *, repetition: float = 0.0, too_long: float = 0.0, longest: int = 1_000_000
    ) -> None:
        self.weights = dict(weights)
        self.repetition = repetition
        self.too_long = too_long
        self.longest = longest

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        *,
        words: int = 60,
        std: float = 0.5,
        repetition: float = 0.0,
        too_long: float = 0.0,
        longest: int = 1_000_000,
    ) -> WordGold:
        """Made-up words of two syllables, their worth drawn from N(0, std²).

        Args:
            rng: Decides words and worth.
            words: How many.
            std: Standard deviation of a word's worth.
            repetition: As in the class.
            too_long: As in the class.
            longest: As in the class.

        Raises:
            ConfigError: If more words are asked for than there are.
        """
        most = len(_SYLLABLES) ** 2
        if not 1 <= words <= most:
            raise ConfigError(f"`words` must be from 1 to {most}, got {words}.")
        pairs = rng.permutation(most)[:words]
        names = [_SYLLABLES[pair // len(_SYLLABLES)] + _SYLLABLES[pair % len(_SYLLABLES)] for pair in pairs]
        worth = dict(zip(names, rng.normal(0.0, std, size=words).tolist(), strict=True))
        return cls(worth, repetition=repetition, too_long=too_long, longest=longest)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """The true worth of each response, shape ``(n,)``; prompts are not looked at."""
        found = []
        for response in responses:
            words = response.split()
            worth = sum(self.weights.get(word, 0.0) for word in words)
            worth -= self.repetition * (len(words) - len(set(words)))
            found.append(worth - self.too_long * max(0, len(words) - self.longest))
        return np.array(found, dtype=np.float32)

    def sample(self, rng: np.random.Generator, count: int, *, min_words: int = 3, max_words: int = 8) -> list[str]:
        """Responses of this gold's words, drawn evenly, each led by a blank as responses are."""
        words = list(self.weights)
        lengths = rng.integers(min_words, max_words + 1, size=count)
        return [" " + " ".join(words[place] for place in rng.integers(len(words), size=n)) for n in lengths]


class TargetLength:
    """Prefers responses of a length: minus the distance in words, divided by `unit`.

    Args:
        words: The preferred number of words.
        unit: Words per unit of score.
    """

    def __init__(self, words: int, *, unit: float = 1.0) -> None:
        self.words = words
        self.unit = unit

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, at most 0, shape ``(n,)``."""
        return np.array([-abs(len(r.split()) - self.words) / self.unit for r in responses], dtype=np.float32)
