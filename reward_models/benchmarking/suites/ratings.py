"""Suites from rated texts: every pair of texts of a domain, with what single people said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import Pairs, SuiteData
from reward_models.labels import ratings_from_texts
from textenv.datasets import RatedText, builtin_ratings, human_ratings
from textenv.datasets.rated_texts import DOMAINS, Split
from textenv.errors import DataError

DOMAIN_TITLES = {"movies": "movie reviews", "amazon": "product reviews", "tweets": "tweets", "nyt": "editorials"}


def human_suites(*, limit: int = 1100, split: Split = "test", domains: Sequence[str] | None = None) -> list[SuiteData]:
    """The human sentiment ratings, a suite per domain; fetched on first use.

    Args:
        limit: At most so many texts per domain; which ones is decided by their order in the files.
        split: Which part; models are trained on ``train``.
        domains: Some of the four; all for None.

    Raises:
        DataError: If the ratings can be neither found nor fetched.
        ConfigError: If a domain is unknown.
    """
    texts = human_ratings(None if domains is None else tuple(domains), split)
    return _suites("human", texts, limit, f"{split} split; every rating is by a person")


def builtin_suites(*, limit: int = 300, seed: int = 0) -> list[SuiteData]:
    """Generated sentences with simulated raters in place of the human ratings: no network, figures about nothing.

    Args:
        limit: Texts per domain.
        seed: Of the generator.
    """
    texts = builtin_ratings(n=40 * limit + 400, seed=seed, split="test")
    return _suites("builtin", texts, limit, "generated sentences, simulated raters")


def ratings_suite(
    name: str,
    title: str,
    prompts: Sequence[str],
    responses: Sequence[str],
    raters: Sequence[Sequence[float]],
    *,
    note: str = "",
) -> SuiteData:
    """A suite of all pairs of responses whose mean ratings differ.

    Args:
        name: Short name.
        title: For people.
        prompts: Of each response.
        responses: The responses.
        raters: Every single rating of each response, at least one.
        note: What a reader has to know.

    Raises:
        DataError: If a response has no rating, or no two means differ.
    """
    empty = [index for index, item in enumerate(raters) if not len(item)]
    if empty:
        raise DataError(f"suite {name!r}: response {empty[0]} has no rating.")
    means = np.array([np.mean(item) for item in raters], dtype=np.float64)
    better, worse = np.nonzero(means[:, None] > means[None, :])
    if not len(better):
        raise DataError(f"suite {name!r}: all mean ratings are equal, so there is no pair to judge.")
    several = min(len(item) for item in raters) >= 2
    share = preference_shares(raters)[better, worse] if several else None
    pairs = Pairs.of(better, worse, share=share, gap=means[better] - means[worse])
    return SuiteData(
        name,
        title,
        tuple(prompts),
        tuple(responses),
        pairs,
        np.arange(len(means)),
        gold=means,
        raters=tuple(tuple(float(value) for value in item) for item in raters) if several else None,
        note=note,
    )


def preference_shares(raters: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """How often a random rater of one item gives more than a random rater of another, equal ratings half, ``(n, n)``.

    Args:
        raters: Ratings of each item.
    """
    levels = np.unique(np.concatenate([np.asarray(item, np.float64) for item in raters]))
    counts = np.stack([np.bincount(np.searchsorted(levels, item), minlength=len(levels)) for item in raters])
    chance = counts / counts.sum(1, keepdims=True)
    return chance @ (np.cumsum(chance, axis=1) - 0.5 * chance).T


def _suites(group: str, texts: Sequence[RatedText], limit: int, note: str) -> list[SuiteData]:
    made = []
    for domain in DOMAINS:
        own = [text for text in texts if text.domain == domain][:limit]
        if not own:
            continue
        labels = ratings_from_texts(own)
        made.append(
            ratings_suite(
                f"{group}/{domain}",
                f"{'Human ratings' if group == 'human' else 'Generated'}: {DOMAIN_TITLES[domain]}",
                [label.prompt for label in labels],
                [label.response for label in labels],
                [text.ratings for text in own],
                note=f"{len(own):,} texts, {note}",
            )
        )
    return made
