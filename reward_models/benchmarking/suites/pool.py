"""A pool of samples per prompt with known quality: what best-of-n against each model would bring."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.overoptimization.world import gold_scores, prompts, review
from textenv.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class PoolSuite:
    """Samples of one policy on some prompts.

    Attributes:
        name: Short name.
        title: For people.
        prompts: The P prompts.
        responses: N samples for each.
        gold: True quality, shape ``(P, N)``.
        note: What a reader has to know.
    """

    name: str
    title: str
    prompts: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    gold: NDArray[np.float64]
    note: str = ""

    def __post_init__(self) -> None:
        if self.gold.ndim != 2 or self.gold.shape[0] != len(self.prompts) or len(self.responses) != len(self.prompts):
            raise ShapeError(
                f"pool {self.name!r}: {len(self.prompts)} prompts, {len(self.responses)} rows of "
                f"responses and gold of shape {self.gold.shape} do not fit."
            )
        if any(len(row) != self.gold.shape[1] for row in self.responses):
            raise ShapeError(f"pool {self.name!r}: every prompt needs {self.gold.shape[1]} responses.")

    def sha256(self) -> str:
        """Hash of all texts."""
        digest = hashlib.sha256()
        for prompt, row in zip(self.prompts, self.responses, strict=True):
            for text in (prompt, *row):
                digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def generator_pool(*, prompts_count: int = 24, samples: int = 512, seed: int = 0) -> PoolSuite:
    """Samples of the small world's own generator, which sometimes gushes.

    Args:
        prompts_count: How many prompts, at most 64.
        samples: Per prompt.
        seed: Of the samples.

    Raises:
        ConfigError: If the numbers are out of range.
    """
    asked = prompts()
    if not 1 <= prompts_count <= len(asked) or samples < 1:
        raise ConfigError(f"need 1 to {len(asked)} prompts and at least 1 sample, got {prompts_count} and {samples}.")
    rng = np.random.default_rng(seed)
    rows = tuple(tuple(review(rng) for _ in range(samples)) for _ in range(prompts_count))
    gold = np.array([gold_scores([prompt] * samples, row) for prompt, row in zip(asked, rows, strict=False)])
    return PoolSuite(
        "overoptimization",
        "Best-of-n on simulated gold",
        tuple(asked[:prompts_count]),
        rows,
        gold.astype(np.float64),
        note=f"{prompts_count} prompts, {samples} generated reviews each; the gold value of every text is known",
    )
