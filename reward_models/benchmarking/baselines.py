"""Models that belong into every table: they know nothing, or next to nothing, and say what chance looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.base import paired
from reward_models.tfidf import TfidfRidge
from textenv.datasets import RatedText
from textenv.errors import DataError


class ConstantModel:
    """The same score for everything: chance on every measure, by construction."""

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Zeros, shape ``(n,)``."""
        return np.zeros(len(responses), dtype=np.float32)


class RandomModel:
    """A score in [0, 1) that is a hash of the text: chance, without ties.

    Args:
        seed: Another seed is another model.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Pseudo-random scores that depend on the texts only, shape ``(n,)``."""
        digests = [
            hashlib.sha256(f"{self.seed}\0{p}\0{r}".encode("utf-8", "surrogatepass")).digest()[:8]
            for p, r in paired(prompts, responses)
        ]
        return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests], dtype=np.float32)


class LengthModel:
    """The number of words: what a model is worth that only looks at the length."""

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Words of each response, shape ``(n,)``."""
        return np.array([len(response.split()) for _, response in paired(prompts, responses)], dtype=np.float32)


class BagOfWords:
    """TF-IDF and ridge on the rated texts of some domains, read as prompt and response.

    Args:
        texts: Rated texts; those of the train split are learned from.
        domains: Their domains; all for none.

    Raises:
        DataError: If there is no such text.
    """

    def __init__(self, texts: Sequence[RatedText], domains: Sequence[str] = ()) -> None:
        own = [text for text in texts if text.split == "train" and (not domains or text.domain in domains)]
        if not own:
            raise DataError(f"no rated texts of {', '.join(domains) or 'any domain'} in the train split.")
        self._model = TfidfRidge().fit([text.text for text in own], [text.mean for text in own])

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Predicted mean ratings, shape ``(n,)``; the instruction before a colon is not read."""
        started = [prompt.partition(": ")[2] for prompt, _ in paired(prompts, responses)]
        return self._model.score(started, responses)
