"""Labels that reward models learn from: ratings of single responses, and comparisons of two.

Both are plain records of texts, so a file, a web page or a generator can produce them. Rankings, best-of-K and files
are left to modules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from textenv.datasets.demonstrations import prompt_and_response
from textenv.datasets.records import RatedText
from textenv.errors import DataError


@dataclass(frozen=True, slots=True)
class Rating:
    """A response and how good people found it.

    Attributes:
        prompt: What was asked.
        response: What was answered.
        score: The rating, e.g. the mean over raters; on one scale for all labels of a training run.

    Raises:
        DataError: If the score is not finite.
    """

    prompt: str
    response: str
    score: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise DataError(f"`score` must be finite, got {self.score} for the response {self.response[:60]!r}.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, of which people preferred one.

    Attributes:
        prompt: What was asked.
        chosen: The preferred response.
        rejected: The other one.
        margin: How much larger its score should at least be; 0 asks for larger only.
        weight: How much this label counts, at least 0.

    Raises:
        DataError: If margin or weight is not finite, or the weight negative.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin) or not 0 <= self.weight < math.inf:
            raise DataError(
                f"`margin` must be finite and `weight` finite and ≥ 0, got {self.margin} and {self.weight} "
                f"for the prompt {self.prompt[:60]!r}."
            )


Label = Rating | Comparison


def ratings_from_texts(texts: Iterable[RatedText]) -> list[Rating]:
    """Each rated text as a prompt and response, cut as for demonstrations, with its mean rating."""
    labels = []
    for rated in texts:
        cut = prompt_and_response(rated)
        labels.append(Rating(cut.prompt, cut.response, rated.mean))
    return labels


def comparisons_from_ratings(
    ratings: Sequence[Rating], rng: np.random.Generator, *, per_prompt: int = 1, min_gap: float = 0.0
) -> list[Comparison]:
    """Comparisons between responses to the same prompt, drawn from their ratings.

    Args:
        ratings: Rated responses; prompts with a single response, or with none rated far enough apart, give nothing.
        rng: Decides which pairs are drawn.
        per_prompt: At most so many pairs of each prompt.
        min_gap: Only pairs whose ratings differ by more than this.

    Returns:
        The comparisons, prompt after prompt in the order of first appearance.
    """
    by_prompt: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_prompt.setdefault(rating.prompt, []).append(rating)
    made: list[Comparison] = []
    for prompt, group in by_prompt.items():
        pairs = [(a, b) for a in group for b in group if a.score - b.score > min_gap]
        for index in rng.permutation(len(pairs))[:per_prompt]:
            better, worse = pairs[index]
            made.append(Comparison(prompt, better.response, worse.response))
    return made
