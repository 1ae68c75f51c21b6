"""Bag of words and ridge regression: the baseline that a neural reward model has to beat.

It is fitted in about a second, so it is not saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from reward_models.base import TextTemplate
from textenv.errors import ConfigError, ShapeError


class TfidfRidge:
    """TF-IDF of single words and word pairs, and a ridge regression on the mean ratings.

    Args:
        alpha: Strength of the ridge penalty, at least 0.
        min_count: Words and pairs that occur in fewer training texts are ignored.
    """

    def __init__(self, *, alpha: float = 1.0, min_count: int = 2) -> None:
        self._vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), min_df=min_count, sublinear_tf=True, token_pattern=r"(?u)\b\w[\w']*\b|[!?]"
        )
        self._ridge = Ridge(alpha=alpha)
        self._template = TextTemplate()
        self._fitted = False

    def fit(self, texts: Sequence[str], means: Sequence[float]) -> TfidfRidge:
        """Fit on whole texts and their mean ratings; returns itself.

        Raises:
            ShapeError: If there are not as many ratings as texts.
        """
        if len(texts) != len(means):
            raise ShapeError(f"got {len(texts)} texts and {len(means)} means; each text needs one.")
        self._ridge.fit(self._vectorizer.fit_transform(texts), np.asarray(means, dtype=np.float64))
        self._fitted = True
        return self

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """Predicted mean ratings of prompt and response read as one text, shape ``(n,)``.

        Raises:
            ConfigError: If it was not fitted.
            ShapeError: If there are not as many prompts as responses.
        """
        if not self._fitted:
            raise ConfigError("TfidfRidge has to be fitted before it scores; call `fit(texts, means)`.")
        texts = self._template.join(prompts, responses)
        if not texts:
            return np.zeros(0, dtype=np.float32)
        return self._ridge.predict(self._vectorizer.transform(texts)).astype(np.float32)
