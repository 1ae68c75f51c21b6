"""A suite whose truth is known: reviews of the small world, several per prompt, judged by simulated raters."""

from __future__ import annotations

import numpy as np

from reward_models.benchmarking.data import Pairs, SuiteData, cluster_by_prompt
from reward_models.benchmarking.overoptimization.world import gold_scores, prompts, review
from reward_models.benchmarking.suites.ratings import preference_shares
from textenv.errors import ConfigError

RATER_NOISE = 0.9


def simulated_suite(*, responses: int = 8, raters: int = 5, noise: float = RATER_NOISE, seed: int = 0) -> SuiteData:
    """64 prompts with several responses each; the gold value is the truth, the labels are the raters'.

    Args:
        responses: Per prompt, at least 2.
        raters: Per response, at least 2.
        noise: Standard deviation of a rater around the truth, before rounding to whole numbers from -4 to 4.
        seed: Of everything random.

    Raises:
        ConfigError: If there are too few responses or raters, or the noise is negative.
    """
    if responses < 2 or raters < 2 or noise < 0:
        raise ConfigError(f"need `responses` ≥ 2, `raters` ≥ 2 and `noise` ≥ 0, got {responses}, {raters} and {noise}.")
    rng = np.random.default_rng(seed)
    asked = [prompt for prompt in prompts() for _ in range(responses)]
    answers = _distinct(len(asked), responses, rng)
    gold = gold_scores(asked, answers).astype(np.float64)
    given = np.clip(np.rint(gold[:, None] + noise * rng.standard_normal((len(gold), raters))), -4, 4)
    means = given.mean(1)
    shares = preference_shares(list(given))
    better, worse = [], []
    for start in range(0, len(asked), responses):
        group = np.arange(start, start + responses)
        a, b = np.nonzero(means[group][:, None] > means[group])
        better.append(group[a])
        worse.append(group[b])
    first, second = np.concatenate(better), np.concatenate(worse)
    pairs = Pairs.of(first, second, share=shares[first, second], gap=means[first] - means[second])
    return SuiteData(
        "simulated",
        "Simulated gold",
        tuple(asked),
        tuple(answers),
        pairs,
        cluster_by_prompt(asked),
        gold=gold,
        raters=tuple(tuple(row) for row in given.tolist()),
        truth_known=True,
        note=f"{len(asked)} generated reviews of known quality, {raters} simulated raters each (noise {noise:g})",
    )


def _distinct(count: int, group: int, rng: np.random.Generator) -> list[str]:
    """So many reviews, no two alike within a group."""
    made: list[str] = []
    for start in range(0, count, group):
        own: dict[str, None] = {}
        while len(own) < min(group, count - start):
            own.setdefault(review(rng))
        made += own
    return made
