"""Several raters per item: agreement against hand-worked numbers, bias and noise against simulated raters."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from reward_models.labels import Comparison, Rating
from reward_models.labels.raters import agreement, dawid_skene, rater_effects
from reward_models.simulation import Rater, SimulatedRaters, WordGold
from tests.reward_models.tiny import rank_correlation
from textenv.errors import DataError, MissingDependencyError

GOLD = WordGold.random(np.random.default_rng(1), words=40, std=0.7)


def test_agreement_of_ratings_hand_worked() -> None:
    labels = [Rating("p", r, s) for r, s in (("a", 1), ("a", 1), ("b", 3), ("b", 1), ("c", 9))]
    found = agreement(labels)
    # Observed: (0 + 2 * 4 / 1) / 4; expected over 1, 1, 3, 1: 6 ordered pairs of distance 4 among 12.
    assert found == pytest.approx((1 - 2 / 2, 0.5, 2, 4))


def test_agreement_of_comparisons_does_not_depend_on_the_order_of_the_texts() -> None:
    labels = [
        Comparison("p", "a", "b"),
        Comparison("p", "a", "b"),
        Comparison("q", "b", "a"),
        Comparison("q", "a", "b"),
    ]
    assert agreement(labels).pairwise == 0.5
    assert agreement([Comparison("p", "b", "a", tie=True), Comparison("p", "a", "b", tie=True)]).pairwise == 1.0


def test_agreement_without_two_labels_of_an_item_is_an_error() -> None:
    with pytest.raises(DataError, match="items with at least two labels"):
        agreement([Rating("p", "a", 1.0), Rating("p", "b", 1.0)])
    with pytest.raises(DataError, match="give one kind"):
        agreement([Rating("p", "a", 1.0), Comparison("p", "a", "b")])  # type: ignore[list-item]


def test_rater_effects_find_bias_noise_and_worth() -> None:
    people = [
        Rater("kind", noise=0.3, noise_kind="gaussian", bias=1.0),
        Rater("strict", noise=0.3, noise_kind="gaussian", bias=-1.0),
        Rater("careless", noise=2.0, noise_kind="gaussian"),
    ]
    texts = GOLD.sample(np.random.default_rng(0), 400)
    raters = SimulatedRaters(GOLD, people, seed=0)
    labels = [x for p in people for x in raters.rate([""] * 400, texts, raters=[p] * 400, items=texts)]
    found = rater_effects(labels)
    assert {name: x.bias for name, x in found.raters.items()} == pytest.approx(
        {"kind": 1.0, "strict": -1.0, "careless": 0.0}, abs=0.2
    )
    assert {name: x.noise for name, x in found.raters.items()} == pytest.approx(
        {"kind": 0.3, "strict": 0.3, "careless": 2.0}, abs=0.2
    )
    truth = GOLD.score([""] * 400, texts)
    plain = [np.mean([x.score for x in labels if x.item == text]) for text in texts]
    estimated = [x.score for x in found.items]
    assert np.corrcoef(estimated, truth)[0, 1] > np.corrcoef(plain, truth)[0, 1] + 0.05
    assert found.items[0].count == 3
    assert found.item_std == pytest.approx(float(truth.std()), rel=0.15)


def test_rater_effects_without_raters_are_an_error() -> None:
    with pytest.raises(DataError, match="need ratings with a `rater`, got 1"):
        rater_effects([Rating("p", "a", 1.0)])


def test_dawid_skene_finds_who_is_careless_and_beats_the_majority() -> None:
    pytest.importorskip("crowdkit")
    people = [Rater("good", noise=0.2), Rater("fair", noise=0.6), *(Rater(f"random {i}", lapse=1.0) for i in range(3))]
    one, other = GOLD.sample(np.random.default_rng(0), 300), GOLD.sample(np.random.default_rng(1), 300)
    raters = SimulatedRaters(GOLD, people, seed=0)
    labels = [x for p in people for x in raters.compare([""] * 300, one, other, raters=[p] * 300)]
    found = dawid_skene(labels)
    accuracy = found.accuracy
    assert accuracy["good"] > 0.85 > 0.7 > max(accuracy[f"random {i}"] for i in range(3))
    right = [GOLD.score(["", ""], [x.chosen, x.rejected]) for x in found.comparisons]
    assert len(right) == 300
    share = float(np.mean([a > b for a, b in right]))
    counts = [
        sum((x.chosen == a) - (x.chosen == b) for x in labels[i::300])
        for i, (a, b) in enumerate(zip(one, other, strict=True))
    ]
    truth = GOLD.score([""] * 300, one) - GOLD.score([""] * 300, other)
    assert share > float(np.mean(np.sign(counts) == np.sign(truth))) + 0.03
    assert share > 0.85
    confident = [abs(float(a - b)) for (a, b) in right]
    assert rank_correlation([x.confidence for x in found.comparisons], confident) > 0.2


def test_dawid_skene_knows_ties_and_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("crowdkit")
    labels = [Comparison("p", "a", "b", tie=True, rater=name) for name in "xyz"]
    labels += [Comparison("q", "a", "b", rater=name) for name in "xyz"]
    labels += [Comparison("r", "b", "a", rater=name) for name in "xyz"]
    found = {x.prompt: (x.chosen, x.tie) for x in dawid_skene(labels).comparisons}
    assert found["p"][1]
    assert (found["q"], found["r"]) == (("a", False), ("b", False))
    with pytest.raises(DataError, match="need"):
        dawid_skene([Comparison("p", "a", "b")])
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation.classification", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "textenv\[raters\]"'):
        dawid_skene(labels)
