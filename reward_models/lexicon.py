"""The VADER sentiment lexicon as a reward model: rules and a word list, no training.

Source: Hutto & Gilbert 2014 (ICWSM); package vaderSentiment 3.3.2 (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from reward_models.base import TextTemplate, paired

POSITIVE_THRESHOLD = 0.05
"""Compound scores above this count as positive (the lexicon's own documentation)."""


class Lexicon:
    """VADER's compound score of prompt and response read as one text, from -1 (negative) to 1 (positive).

    Args:
        include_prompt: Read the prompt too. Without it only the response counts.
    """

    def __init__(self, *, include_prompt: bool = True) -> None:
        self.include_prompt = include_prompt
        self._template = TextTemplate()
        self._analyzer = SentimentIntensityAnalyzer()

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Compound scores, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        joined = self._template.join(prompts, responses)
        texts = joined if self.include_prompt else [response for _, response in paired(prompts, responses)]
        return np.array([self._analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float32)

    def to_spec(self) -> dict[str, Any]:
        """What `reward_models.load_reward_model` builds it from."""
        return {"kind": "lexicon", "include_prompt": self.include_prompt}


def positive_share(compound: NDArray[np.float32]) -> float:
    """Share of compound scores above `POSITIVE_THRESHOLD`; NaN for none."""
    return float(np.mean(compound > POSITIVE_THRESHOLD)) if len(compound) else float("nan")
