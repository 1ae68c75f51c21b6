"""Made-up ratings of degenerate responses, so that a reward model is not blind to what people never showed it.

People rated only sentences that people wrote. A MiniLM that learned from nothing else gives "great great great great …"
2.4 standard deviations over the mean of the test texts, as much as the best review, and an empty response an average
score: an invitation for a policy. With these made-up labels, 3 % of the movie ratings' number, they score 2.5 and 1.6
below the mean, and the pair accuracy stays (0.870 and 0.869 at a gap of 0.5; a trial with 10 % gave 0.862).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_models.labels import Rating
from textenv.errors import ConfigError

DEFAULT_SHARE = 0.03
_MIN_WORDS, _MAX_WORDS = 5, 25


def degenerate_ratings(
    ratings: Sequence[Rating], rng: np.random.Generator, *, share: float = DEFAULT_SHARE, score: float | None = None
) -> list[Rating]:
    """Degenerate variants of some responses, all rated as low as the worst response.

    A third repeat a phrase of one to three words (half of them after the response's true beginning), a third are
    words drawn from all responses, a third say the response's beginning twice.

    Args:
        ratings: What people rated; prompts and words are taken from here.
        rng: Decides which responses are taken and what becomes of them.
        share: How many to make, as a share of the ratings, from 0 to 1.
        score: Their rating; the lowest of `ratings` for None.

    Returns:
        The made-up ratings only.

    Raises:
        ConfigError: If `share` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"`share` must be in [0, 1], got {share}.")
    count = int(share * len(ratings))
    if count == 0:
        return []
    lowest = min(rating.score for rating in ratings) if score is None else score
    words = [word for rating in ratings for word in rating.response.split()] or ["…"]
    made = []
    for position, index in enumerate(rng.permutation(len(ratings))[:count]):
        own = ratings[index].response.split() or words[:1]
        length = int(rng.integers(_MIN_WORDS, _MAX_WORDS))
        if position % 3 == 0:
            changed = _repeated_phrase(own, length, rng)
        elif position % 3 == 1:
            changed = [words[place] for place in rng.integers(len(words), size=length)]
        else:
            changed = 2 * own[: int(rng.integers(2, max(3, len(own))))]
        made.append(Rating(ratings[index].prompt, " " + " ".join(changed), lowest))
    return made


def _repeated_phrase(words: list[str], length: int, rng: np.random.Generator) -> list[str]:
    """A phrase of the words over and over, `length` words of it, in half of the cases after a true beginning."""
    size = int(rng.integers(1, 4))
    start = int(rng.integers(max(1, len(words) - size + 1)))
    phrase = words[start : start + size]
    beginning = words[: int(rng.integers(len(words)))] if rng.random() < 0.5 else []
    return beginning + (phrase * length)[:length]
