"""Score normalisation: a gain and a bias that give scores mean 0 and standard deviation 1 on a policy's samples.

It is an artefact that is stored beside the model with the figures that it was fitted on, never folded into the
weights: what plain transformers loads gives raw scores. Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.1.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import CheckpointError, DataError


@dataclass(frozen=True)
class Normalization:
    """``normalised = gain * raw + bias``.

    Attributes:
        gain: Positive factor.
        bias: Added after the factor.
        policy: Name of the policy whose samples were scored.
        samples: How many samples.
        mean_before: Mean of the raw scores.
        std_before: Standard deviation of the raw scores.
        mean_after: Mean of the normalised scores.
        std_after: Standard deviation of the normalised scores.
    """

    gain: float
    bias: float
    policy: str
    samples: int
    mean_before: float
    std_before: float
    mean_after: float
    std_after: float

    @classmethod
    def fit(cls, raw_scores: ArrayLike, *, policy: str) -> Normalization:
        """The gain and bias that bring these scores to mean 0 and standard deviation 1.

        Args:
            raw_scores: Raw scores of a policy's samples, shape ``(n,)``, n at least 2.
            policy: Name of the policy, for the record.

        Raises:
            DataError: If there are fewer than two scores, one is not finite, or all are equal.
        """
        scores = np.asarray(raw_scores, dtype=np.float64).ravel()
        if len(scores) < 2 or not np.isfinite(scores).all():
            raise DataError(f"normalising needs at least 2 finite scores, got {len(scores)}, some perhaps not finite.")
        mean, std = float(scores.mean()), float(scores.std())
        if std <= 1e-8 * max(1.0, abs(mean)):
            raise DataError(f"all {len(scores)} scores are {mean:.6g}: a constant reward model cannot be normalised.")
        after = (scores - mean) / std
        return cls(1 / std, -mean / std, policy, len(scores), mean, std, float(after.mean()), float(after.std()))

    @classmethod
    def of_config(cls, config: Any) -> Normalization | None:
        """What OpenRLHF writes into a model's configuration: mean and deviation of its scores; None without them.

        With ``normalize_reward`` false there, its scores are meant raw.

        Raises:
            CheckpointError: If they are unusable.
        """
        mean, std = getattr(config, "mean", None), getattr(config, "std", None)
        if mean is None or std is None or getattr(config, "normalize_reward", None) is False:
            return None
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in (mean, std)) or std <= 0:
            raise CheckpointError(f"config.json: mean and std must be finite and std positive, got {mean}, {std}.")
        return cls(1 / std, -mean / std, "of the model's own config.json", 0, mean, std, 0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any], *, where: str = "normalization") -> Normalization:
        """Read what `to_json` gave.

        Raises:
            CheckpointError: If a field is missing, unknown or unusable; the message begins with `where`.
        """
        names = {field.name for field in fields(cls)}
        if set(record) != names:
            raise CheckpointError(f"{where}: expected the fields {sorted(names)}, got {sorted(record)}.")
        made = cls(**record)
        if not (made.gain > 0 and math.isfinite(made.gain) and math.isfinite(made.bias)):
            raise CheckpointError(f"{where}: gain must be positive and bias finite, got {made.gain}, {made.bias}.")
        return made
