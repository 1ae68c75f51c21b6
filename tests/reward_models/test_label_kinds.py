"""Label records and the conversions between their kinds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from reward_models.labels import (
    BestOf,
    Comparison,
    Ranking,
    Rating,
    StepLabels,
    comparisons_from_best,
    comparisons_from_ranking,
    comparisons_from_ratings,
    ranking_from_best,
    ranking_from_ratings,
    ratings_from_texts,
)
from textenv.datasets import builtin_ratings
from textenv.errors import DataError

WRONG: list[tuple[str, Callable[[], object], str]] = [
    ("spread", lambda: Rating("p", "r", 1.0, spread=-1.0), r"`spread` must be finite and ≥ 0, or None, got -1.0"),
    ("count", lambda: Rating("p", "r", 1.0, count=0), r"`count` must be at least 1, got 0"),
    ("weight", lambda: Rating("p", "r", 1.0, weight=-1.0), r"`weight` must be finite and ≥ 0, got -1.0"),
    ("scale", lambda: Rating("p", "r", 1.0, scale=(5, 1)), r"`scale` must be a lower and a higher whole number"),
    ("off the scale", lambda: Rating("p", "r", 6.0, scale=(1, 5)), r"`score` must be a whole number from 1 to 5"),
    ("between", lambda: Rating("p", "r", 2.5, scale=(1, 5)), r"whole number from 1 to 5 .*, got 2.5"),
    ("confidence", lambda: Comparison("p", "a", "b", confidence=1.5), r"`confidence` must be from 0 to 1, got 1.5"),
    ("same text", lambda: Comparison("p", "a", "a"), r"`rejected` must be another text than `chosen`, got 'a'"),
    ("one response", lambda: Ranking("p", ("a",), (1,)), r"`responses` must be at least two, got 1"),
    ("ranks", lambda: Ranking("p", ("a", "b"), (1,)), r"`ranks` must be one rank per response, 2, got 1"),
    ("no rank", lambda: Ranking("p", ("a", "b"), (None, None)), r"`ranks` must be at least one number"),
    ("rank 0", lambda: Ranking("p", ("a", "b"), (0, 1)), r"`ranks` must be whole numbers from 1 \(best\)"),
    ("best", lambda: BestOf("p", ("a", "b"), 2), r"`best` must be an index from 0 to 1, got 2"),
    ("no step", lambda: StepLabels("p", (), ()), r"`steps` must be at least one step, got 0"),
    ("labels", lambda: StepLabels("p", ("a",), (1, 0)), r"`labels` must be one label per step, 1, got 2"),
    ("no label", lambda: StepLabels("p", ("a",), (None,)), r"`labels` must be at least one number"),
    ("label 2", lambda: StepLabels("p", ("a",), (2.0,)), r"`labels` must be numbers from 0 to 1, got \(2.0,\)"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_record_unusable_field_names_it(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_rating_mean_of_several_may_lie_between_categories() -> None:
    assert Rating("p", "r", 2.5, scale=(1, 5), count=2).score == 2.5


def test_ranking_groups_are_ties_best_first_and_gaps_mean_nothing() -> None:
    ranking = Ranking("p", ("a", "b", "c", "d", "e"), (4, 2, None, 2, 1))
    assert ranking.groups() == [(4,), (1, 3), (0,)]
    assert ranking.dense_ranks == (3, 2, None, 2, 1)


def test_comparisons_from_ranking_share_its_weight() -> None:
    made = comparisons_from_ranking(Ranking("p", ("a", "b", "c", "d"), (1, 2, 2, None), weight=2.0, rater="x"))
    assert {(x.chosen, x.rejected, x.tie) for x in made} == {
        ("a", "b", False),
        ("a", "c", False),
        ("a", "d", False),
        ("b", "c", True),
        ("b", "d", False),
        ("c", "d", False),
    }
    assert math.isclose(sum(x.weight for x in made), 2.0)
    assert {x.rater for x in made} == {"x"}
    without = comparisons_from_ranking(Ranking("p", ("a", "b", "c"), (1, 2, 2)), ties=False)
    assert [(x.chosen, x.rejected, x.weight) for x in without] == [("a", "b", 0.5), ("a", "c", 0.5)]


def test_comparisons_from_ranking_twice_the_same_text_makes_no_pair() -> None:
    made = comparisons_from_ranking(Ranking("p", ("a", "a", "b"), (1, 2, 3)))
    assert [(x.chosen, x.rejected) for x in made] == [("a", "b"), ("a", "b")]


def test_best_of_is_a_top_one_ranking() -> None:
    label = BestOf("p", ("a", "b", "c"), 1, weight=3.0, item="i")
    assert ranking_from_best(label) == Ranking("p", ("a", "b", "c"), (None, 1, None), weight=3.0, item="i")
    assert [(x.chosen, x.rejected, x.weight) for x in comparisons_from_best(label)] == [
        ("b", "a", 1.5),
        ("b", "c", 1.5),
    ]


def test_ranking_from_ratings_orders_and_ties() -> None:
    made = ranking_from_ratings([Rating("p", "a", 1.0), Rating("p", "b", 3.0), Rating("p", "c", 1.0)])
    assert made.ranks == (2, 1, 2)


def test_ratings_from_texts_know_spread_and_origin() -> None:
    rated = builtin_ratings(3)[0]
    label = ratings_from_texts([rated])[0]
    mean = sum(rated.ratings) / len(rated.ratings)
    variance = sum((x - mean) ** 2 for x in rated.ratings) / (len(rated.ratings) - 1)
    assert label.spread == pytest.approx(math.sqrt(variance))
    assert (label.count, label.item, label.source) == (len(rated.ratings), rated.id, rated.domain)


def test_comparisons_from_ratings_of_one_text_rated_twice_make_none() -> None:
    import numpy as np

    assert comparisons_from_ratings([Rating("p", "a", 1.0), Rating("p", "a", 3.0)], np.random.default_rng(0)) == []
