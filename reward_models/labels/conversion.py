"""Labels of one kind made from another: rated texts, pairs drawn from ratings, pairs that a ranking implies.

Every conversion keeps `rater`, `item` and `source`. Left out: turning comparisons back into ratings, which is what
training a reward model does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from reward_models.labels.kinds import BestOf, Comparison, Ranking, Rating
from textenv.datasets.demonstrations import prompt_and_response
from textenv.datasets.rated_texts import RatedText


def ratings_from_texts(texts: Iterable[RatedText]) -> list[Rating]:
    """Each rated text as a prompt and response, cut as for demonstrations, with the mean and spread of its ratings."""
    labels = []
    for rated in texts:
        cut = prompt_and_response(rated)
        spread = float(np.std(rated.ratings, ddof=1)) if len(rated.ratings) > 1 else None
        labels.append(
            Rating(
                cut.prompt,
                cut.response,
                rated.mean,
                spread=spread,
                count=max(1, len(rated.ratings)),
                item=rated.id,
                source=rated.domain,
            )
        )
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
        pairs = [(a, b) for a in group for b in group if a.score - b.score > min_gap and a.response != b.response]
        for index in rng.permutation(len(pairs))[:per_prompt]:
            better, worse = pairs[index]
            made.append(Comparison(prompt, better.response, worse.response, source=better.source))
    return made


def comparisons_from_ranking(ranking: Ranking, *, ties: bool = True) -> list[Comparison]:
    """All the pairs that a ranking decides; their weights add up to the ranking's own.

    Responses of one rank are a tie; two unranked ones make no pair. Each pair weighs ``weight / pairs``, so that a
    ranking of nine counts as much as one of two (InstructGPT's ``1/C(K, 2)``).

    Args:
        ranking: The ranking.
        ties: Also give the tied pairs.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    last = len(ranking.responses) + 1
    ranks = [last if rank is None else rank for rank in ranking.dense_ranks]
    pairs = [
        (i, j, ranks[i] == ranks[j])
        for i in range(len(ranks))
        for j in range(len(ranks))
        if ranks[i] < ranks[j] or (ties and i < j and ranks[i] == ranks[j] != last)
    ]
    texts = ranking.responses
    pairs = [pair for pair in pairs if texts[pair[0]] != texts[pair[1]]]
    return [
        Comparison(
            ranking.prompt,
            texts[i],
            texts[j],
            weight=ranking.weight / len(pairs),
            tie=tie,
            rater=ranking.rater,
            item=ranking.item,
            source=ranking.source,
        )
        for i, j, tie in pairs
    ]


def comparisons_from_best(label: BestOf) -> list[Comparison]:
    """The best response against each of the others; their weights add up to the label's own."""
    return comparisons_from_ranking(ranking_from_best(label))


def ranking_from_best(label: BestOf) -> Ranking:
    """The same label as a top-1 ranking."""
    ranks = tuple(1 if index == label.best else None for index in range(len(label.responses)))
    return Ranking(
        label.prompt,
        label.responses,
        ranks,
        weight=label.weight,
        rater=label.rater,
        item=label.item,
        source=label.source,
    )


def ranking_from_ratings(ratings: Sequence[Rating]) -> Ranking:
    """The ranking of one prompt's rated responses, best rating first; equal ratings are ties.

    Args:
        ratings: At least two ratings; the prompt, rater, item and source are the first one's.
    """
    first = ratings[0]
    levels = sorted({rating.score for rating in ratings}, reverse=True)
    return Ranking(
        first.prompt,
        tuple(rating.response for rating in ratings),
        tuple(levels.index(rating.score) + 1 for rating in ratings),
        rater=first.rater,
        item=first.item,
        source=first.source,
    )
