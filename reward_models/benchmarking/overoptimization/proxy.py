"""A proxy as small as can be: a Bradley-Terry model on word counts, trained on a few noisy comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from reward_models.labels import Comparison
from textenv.errors import ConfigError, ShapeError

_WORD = re.compile(r"[a-z]+|[!?]")


class WordCountModel:
    """The score of a response is the sum of its words' weights; the prompt does not count.

    Args:
        strength: Inverse of the ridge penalty; few labels want little.

    Raises:
        ConfigError: If `strength` is not positive.
    """

    def __init__(self, *, strength: float = 1.0) -> None:
        if strength <= 0:
            raise ConfigError(f"`strength` must be positive, got {strength}.")
        self.strength = strength
        self.weights: dict[str, float] = {}

    def fit(self, labels: Sequence[Comparison]) -> WordCountModel:
        """Fit on comparisons by maximum likelihood; returns itself.

        Raises:
            ConfigError: If there are no labels.
        """
        if not labels:
            raise ConfigError("WordCountModel needs at least one comparison.")
        words = sorted({word for label in labels for word in _words(label.chosen) + _words(label.rejected)})
        places = {word: index for index, word in enumerate(words)}
        difference = _counts([x.chosen for x in labels], places) - _counts([x.rejected for x in labels], places)
        # Each pair also the other way round: the model has no intercept, and the classifier wants both classes.
        rows = sparse.vstack([difference, -difference])
        classes = np.repeat([1, 0], len(labels))
        weights = np.tile([label.weight for label in labels], 2)
        fitted = LogisticRegression(C=self.strength, fit_intercept=False, max_iter=1000).fit(rows, classes, weights)
        self.weights = dict(zip(words, fitted.coef_[0].tolist(), strict=True))
        return self

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """Sums of word weights, shape ``(n,)``; unknown words weigh nothing.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        if len(prompts) != len(responses):
            raise ShapeError(f"got {len(prompts)} prompts for {len(responses)} responses; each needs its own.")
        weights = self.weights
        return np.array([sum(weights.get(word, 0.0) for word in _words(text)) for text in responses], dtype=np.float32)


def noisy_comparisons(
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    gold: Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]],
    rng: np.random.Generator,
    *,
    labels: int,
    noise: float = 1.0,
) -> list[Comparison]:
    """What simulated raters say of two responses to one prompt: ``P(first preferred) = σ((gold_1 − gold_2) / noise)``.

    Args:
        prompts: Prompts.
        responses: Responses to each, at least two.
        gold: True quality.
        rng: Chooses the pairs and the raters' noise.
        labels: How many comparisons; pairs of equal texts are drawn again, at most ten times as often.
        noise: Scale of the raters' noise, gold units.
    """
    made: list[Comparison] = []
    for _ in range(10 * labels):
        row = int(rng.integers(len(prompts)))
        a, b = (responses[row][int(index)] for index in rng.choice(len(responses[row]), size=2, replace=False))
        if a == b:
            continue
        values = gold([prompts[row]] * 2, [a, b])
        first = rng.random() < 1 / (1 + np.exp(-(values[0] - values[1]) / noise))
        made.append(Comparison(prompts[row], a if first else b, b if first else a))
        if len(made) == labels:
            break
    return made


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _counts(texts: Sequence[str], places: dict[str, int]) -> sparse.csr_matrix:
    rows, columns = [], []
    for row, text in enumerate(texts):
        found = [places[word] for word in _words(text)]
        rows += [row] * len(found)
        columns += found
    shape = (len(texts), len(places))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
