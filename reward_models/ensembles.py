"""Reward models made of reward models: weighted sums, conservative ensembles, clipping, z-scores.

These combine models of texts and give float32 scores; ``textenv.rewards`` has the like for reward functions over
episodes (token lengths, missing ends). Where members disagree, an ensemble also says by how much: that is its
uncertainty per score. Averaging the weights of models is in `reward_models.weight_averaging`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_models.adapters.common import checked_scores
from reward_models.base import RewardModel, paired
from reward_models.normalization import Normalization
from textenv.errors import ConfigError, ShapeError

Aggregate = Literal["mean", "min", "mean_std", "uwo", "median"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "min", "mean_std", "uwo", "median")
DEFAULT_COEFFICIENTS = {"mean_std": 1.0, "uwo": 0.5}


def aggregate_scores(members: ArrayLike, aggregate: Aggregate, coefficient: float = 0.0) -> NDArray[np.float64]:
    """One score from the members' scores.

    Args:
        members: Scores, shape ``(M, n)``.
        aggregate: ``"mean"``; ``"min"`` (worst case, WCO); ``"mean_std"``: mean − coefficient · std; ``"uwo"``:
            mean − coefficient · variance; ``"median"``. Standard deviation and variance divide by M.
        coefficient: Of the standard deviation or the variance.

    Returns:
        Scores of shape ``(n,)``.

    Raises:
        ShapeError: If there is no member or the array has not two axes.
        ConfigError: If the aggregate is unknown.

    Source: Coste et al. 2024, arXiv:2310.02743, eq. 4 and 5 (WCO, UWO); mean − std as in rewardbench's ensembles.
    """
    scores = np.asarray(members, dtype=np.float64)
    if scores.ndim != 2 or not len(scores):
        raise ShapeError(f"`members` must have shape (M, n) with M ≥ 1, got {scores.shape}.")
    if aggregate == "mean":
        return scores.mean(axis=0)
    if aggregate == "min":
        return scores.min(axis=0)
    if aggregate == "median":
        return np.median(scores, axis=0)
    if aggregate == "mean_std":
        return scores.mean(axis=0) - coefficient * scores.std(axis=0)
    if aggregate == "uwo":
        return scores.mean(axis=0) - coefficient * scores.var(axis=0)
    raise ConfigError(f"`aggregate` must be one of {', '.join(AGGREGATES)}; got {aggregate!r}.")


class EnsembleScores(NamedTuple):
    """What an ensemble says of some responses.

    Attributes:
        scores: The aggregate, shape ``(n,)`` float32.
        std: How far the members lie apart, shape ``(n,)`` float32: their standard deviation, dividing by M.
        members: Each member's scores, shape ``(M, n)`` float32.
    """

    scores: NDArray[np.float32]
    std: NDArray[np.float32]
    members: NDArray[np.float32]


class Ensemble:
    """Several reward models of the same thing, combined with or without caution.

    Members should be on one scale: normalised on the same samples, or wrapped in `ZScored`.

    Args:
        models: The members.
        aggregate: See `aggregate_scores`.
        coefficient: Of the standard deviation or variance; None: 1 for ``"mean_std"``, 0.5 for ``"uwo"`` (the best of
            Coste et al. for best-of-n).

    Raises:
        ConfigError: If there is no member, or aggregate or coefficient is unusable.
    """

    def __init__(
        self, models: Sequence[RewardModel], aggregate: Aggregate = "mean", coefficient: float | None = None
    ) -> None:
        if not models:
            raise ConfigError("an ensemble needs at least one member.")
        if aggregate not in AGGREGATES:
            raise ConfigError(f"`aggregate` must be one of {', '.join(AGGREGATES)}; got {aggregate!r}.")
        self.models = list(models)
        self.aggregate: Aggregate = aggregate
        self.coefficient = DEFAULT_COEFFICIENTS.get(aggregate, 0.0) if coefficient is None else float(coefficient)
        if not 0 <= self.coefficient < np.inf:
            raise ConfigError(f"`coefficient` must be ≥ 0 and finite, got {coefficient}.")

    def member_scores(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Each member's scores, shape ``(M, n)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a member's scores are not finite.
        """
        paired(prompts, responses)
        return np.stack(
            [
                checked_scores(model.score(prompts, responses), prompts, responses, source=f"member {index}")
                for index, model in enumerate(self.models)
            ]
        )

    def score_with_uncertainty(self, prompts: Sequence[str], responses: Sequence[str]) -> EnsembleScores:
        """Scores, disagreement and members' scores; raises as `member_scores`."""
        members = self.member_scores(prompts, responses)
        scores = aggregate_scores(members, self.aggregate, self.coefficient).astype(np.float32)
        return EnsembleScores(scores, members.astype(np.float64).std(axis=0).astype(np.float32), members)

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """The aggregate, shape ``(n,)``; raises as `member_scores`."""
        return self.score_with_uncertainty(prompts, responses).scores

    def to_spec(self) -> dict[str, Any]:
        """Settings as JSON holds them; the members stand under ``models`` as objects."""
        settings = {"aggregate": self.aggregate, "coefficient": self.coefficient}
        return {"kind": "ensemble", "models": self.models, **settings}


class WeightedSum:
    """Σ weight · score of reward models of different things.

    Args:
        models: The models, as a list, or by name.
        weights: One each; all 1 for None.

    Raises:
        ConfigError: If there is no model, or the numbers of models and weights differ, or a weight is not finite.
    """

    def __init__(
        self, models: Sequence[RewardModel] | Mapping[str, RewardModel], weights: Sequence[float] | None = None
    ) -> None:
        named = models if isinstance(models, Mapping) else {str(i): model for i, model in enumerate(models)}
        self.models = dict(named)
        self.weights = [1.0] * len(self.models) if weights is None else [float(weight) for weight in weights]
        if not self.models or len(self.weights) != len(self.models):
            raise ConfigError(f"a weighted sum got {len(self.models)} models and {len(self.weights)} weights.")
        if not np.isfinite(self.weights).all():
            raise ConfigError(f"`weights` must be finite, got {self.weights}.")

    def parts(self, prompts: Sequence[Any], responses: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        """Each model's own scores, unweighted, by name.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a model's scores are not finite.
        """
        paired(prompts, responses)
        return {
            name: checked_scores(model.score(prompts, responses), prompts, responses, source=f"the model {name!r}")
            for name, model in self.models.items()
        }

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """The weighted sum, shape ``(n,)``; raises as `parts`."""
        total = np.zeros(len(responses))
        for weight, scores in zip(self.weights, self.parts(prompts, responses).values(), strict=True):
            total += weight * scores
        return total.astype(np.float32)

    def to_spec(self) -> dict[str, Any]:
        """Settings as JSON holds them; the models stand under ``models`` as objects."""
        return {"kind": "weighted_sum", "models": self.models, "weights": self.weights}


class Clipped:
    """Another model's scores, clipped.

    Args:
        model: The model.
        low: Smallest score; −∞ for None.
        high: Largest score; ∞ for None.

    Raises:
        ConfigError: If `low` exceeds `high`.
    """

    def __init__(self, model: RewardModel, low: float | None = None, high: float | None = None) -> None:
        if low is not None and high is not None and not low <= high:
            raise ConfigError(f"`low` must not exceed `high`, got {low} and {high}.")
        self.model, self.low, self.high = model, low, high

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Clipped scores, shape ``(n,)``."""
        scores = self.model.score(prompts, responses)
        if self.low is None and self.high is None:
            return scores
        return np.clip(scores, self.low, self.high).astype(np.float32)

    def to_spec(self) -> dict[str, Any]:
        """Settings as JSON holds them; the model stands under ``model`` as an object."""
        return {"kind": "clip", "model": self.model, "low": self.low, "high": self.high}


class ZScored:
    """Another model's scores, brought to mean 0 and standard deviation 1 on some samples.

    A `SequenceRewardModel` can do that itself (`normalize`); this is for all others, and for members of an ensemble.

    Args:
        model: The model.
        normalization: What `fit` found earlier; None: to be fitted.
    """

    def __init__(self, model: RewardModel, normalization: Normalization | None = None) -> None:
        self.model = model
        self.normalization = normalization

    def fit(self, prompts: Sequence[str], responses: Sequence[str], *, policy: str) -> ZScored:
        """Fit gain and bias on samples of a policy; returns itself.

        Raises:
            DataError: If the scores cannot be normalised, see `Normalization.fit`.
        """
        self.normalization = Normalization.fit(self.model.score(prompts, responses), policy=policy)
        return self

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """z-scores, shape ``(n,)``.

        Raises:
            ConfigError: If it was not fitted.
        """
        if self.normalization is None:
            raise ConfigError("a z-scored model has to be fitted before it scores; call `fit` with a policy's samples.")
        raw = self.model.score(prompts, responses)
        return (self.normalization.gain * raw + self.normalization.bias).astype(np.float32)

    def to_spec(self) -> dict[str, Any]:
        """Settings as JSON holds them; the model stands under ``model`` as an object."""
        found = self.normalization
        return {"kind": "zscore", "model": self.model, "normalization": found and found.to_json()}
