"""Simulated raters: seeded, of every kind of label, and as probable as the exact formulas say."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reward_models.simulation import (
    LikertScale,
    Rater,
    SimulatedRaters,
    TargetLength,
    WordGold,
    ceilings,
    choice_probabilities,
    disagreeing_raters,
    gold_scores,
    rater_probabilities,
)
from textenv.errors import ConfigError, RewardError

GOLD = WordGold({"good": 1.0, "bad": -1.0, "fine": 0.25})
N = 4000


def test_word_gold_hand_worked() -> None:
    gold = WordGold({"good": 1.0, "bad": -1.0}, repetition=0.5, too_long=0.25, longest=3)
    assert gold.score(["p"] * 3, [" good bad new", " good good", " good a b c d"]).tolist() == [0.0, 1.5, 0.5]


def test_word_gold_random_is_seeded_and_knows_what_it_samples() -> None:
    one, other = (WordGold.random(np.random.default_rng(3), words=30) for _ in range(2))
    assert one.weights == other.weights
    texts = one.sample(np.random.default_rng(0), 50, min_words=2, max_words=4)
    assert {len(text.split()) for text in texts} == {2, 3, 4}
    assert {word for text in texts for word in text.split()} <= set(one.weights)
    with pytest.raises(ConfigError, match="`words` must be from 1 to 4900, got 5000"):
        WordGold.random(np.random.default_rng(0), words=5000)


def test_target_length_peaks_at_its_length() -> None:
    assert TargetLength(2, unit=2.0).score(["p"] * 3, ["a", "a b", "a b c d"]).tolist() == [-0.5, 0.0, -1.0]


def test_gold_may_be_a_function_but_not_a_wrong_one() -> None:
    assert gold_scores(lambda prompts, responses: [len(r) for r in responses], ["p"], ["abc"]).tolist() == [3.0]
    with pytest.raises(RewardError, match=r"the gold must give 2 finite scores, got shape \(1,\)"):
        gold_scores(lambda prompts, responses: [1.0], ["p", "p"], ["a", "b"])


@pytest.mark.parametrize(
    ("rater", "expected"),
    [
        # sigmoid(1) and its rest.
        pytest.param(Rater(), (0.731059, 0.0, 0.268941), id="logistic"),
        pytest.param(Rater(noise=2.0), (0.622459, 0.0, 0.377541), id="more noise"),
        pytest.param(Rater(noise_kind="gaussian"), (0.841345, 0.0, 0.158655), id="Gaussian"),
        pytest.param(Rater(tie_threshold=1.0), (0.5, 0.380797, 0.119203), id="ties"),
        pytest.param(Rater(lapse=0.5), (0.615529, 0.0, 0.384471), id="lapses"),
        pytest.param(Rater(noise=0.0, tie_threshold=1.0), (0.0, 1.0, 0.0), id="no noise, within the threshold"),
        pytest.param(Rater(noise=0.0), (1.0, 0.0, 0.0), id="no noise"),
    ],
)
def test_rater_probabilities_hand_worked(rater: Rater, expected: tuple[float, float, float]) -> None:
    assert rater_probabilities(rater, [1.0])[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "rater",
    [
        Rater(),
        Rater(noise_kind="gaussian", tie_threshold=0.5),
        Rater(first_bonus=0.5, length_bonus=0.2, lapse=0.3, taste=0.5),
    ],
    ids=["logistic", "Gaussian with ties", "biased"],
)
def test_compare_says_each_answer_as_often_as_its_exact_probability(rater: Rater) -> None:
    simulated = SimulatedRaters(GOLD, [rater, replace(rater, name="other", noise=0.5)], seed=1)
    first, second = [" good fine fine"] * N, [" fine"] * N
    made = simulated.compare(["p"] * N, first, second)
    said = Counter("tie" if x.tie else "first" if x.chosen == first[0] else "second" for x in made)
    exact = choice_probabilities(simulated, ["p"], first[:1], second[:1])[0]
    found = np.array([said["first"], said["tie"], said["second"]]) / N
    assert np.abs(found - exact).max() < 4 * 0.5 / math.sqrt(N)
    assert {x.rater for x in made} == {"rater", "other"}


def test_logistic_choices_are_the_softmax_and_rankings_plackett_luce() -> None:
    simulated = SimulatedRaters(GOLD, seed=2)
    responses = [" good", " fine", " bad"]
    worth = np.exp(GOLD.score(["p"] * 3, responses).astype(float))
    best = Counter(x.best for x in simulated.pick_best(["p"] * N, [responses] * N))
    assert [best[i] / N for i in range(3)] == pytest.approx(worth / worth.sum(), abs=0.03)
    orders = Counter(x.ranks for x in simulated.rank(["p"] * N, [responses] * N))
    expected = worth[1] / worth.sum() * worth[0] / (worth[0] + worth[2])  # fine, good, bad
    assert orders[(2, 1, 3)] / N == pytest.approx(expected, abs=0.03)


def test_rank_top_leaves_the_rest_unranked_and_ties_neighbours() -> None:
    sharp = Rater(noise=0.0)
    texts = [" bad", " good", " fine", " fine bad"]
    assert SimulatedRaters(GOLD, [sharp]).rank(["p"], [texts])[0].ranks == (4, 1, 2, 3)
    assert SimulatedRaters(GOLD, [sharp]).rank(["p"], [texts], top=2)[0].ranks == (None, 1, 2, None)
    tying = replace(sharp, tie_threshold=0.3)
    assert SimulatedRaters(GOLD, [tying]).rank(["p"], [texts])[0].ranks == (3, 1, 2, 3)


def test_rate_knows_bias_stretch_and_scale() -> None:
    person = Rater(noise=0.0, bias=0.5, stretch=2.0)
    simulated = SimulatedRaters(GOLD, [person])
    assert simulated.rate(["p"], [" good"])[0].score == 2.5
    scale = LikertScale(1, 5)
    assert scale.cutpoints.tolist() == [-1.5, -0.5, 0.5, 1.5]
    made = simulated.rate(["p"] * 3, [" good", " fine", " bad bad"], scale=scale, items=["x", "y", "z"])
    assert [(x.score, x.scale, x.item) for x in made] == [(5.0, (1, 5), "x"), (4.0, (1, 5), "y"), (1.0, (1, 5), "z")]


def test_rate_on_a_scale_follows_the_cumulative_logistic() -> None:
    scale = LikertScale(1, 3)
    made = SimulatedRaters(GOLD, seed=3).rate(["p"] * N, [" good"] * N, scale=scale)
    # Score 1, cutpoints -0.5 and 0.5: s(-1.5), s(-0.5) - s(-1.5), s(0.5).
    counts = Counter(x.score for x in made)
    assert [counts[c] / N for c in (1.0, 2.0, 3.0)] == pytest.approx([0.1824, 0.1951, 0.6225], abs=0.03)


def test_label_steps_are_right_as_often_as_the_logistic_says() -> None:
    made = SimulatedRaters(GOLD, seed=4).label_steps(["p"] * N, [(" good", " bad bad")] * N)
    rates = np.array([x.labels for x in made], dtype=float).mean(axis=0)
    assert rates.tolist() == pytest.approx([0.7311, 0.2689], abs=0.03)


def test_same_seed_same_labels_other_seed_others() -> None:
    people = disagreeing_raters(np.random.default_rng(0), 3)
    texts = GOLD.sample(np.random.default_rng(0), 40)
    labels = [SimulatedRaters(GOLD, people, seed=seed).rate(["p"] * 40, texts) for seed in (0, 0, 1)]
    assert labels[0] == labels[1] != labels[2]
    assert len({rater.bias for rater in people}) == 3


def test_taste_is_lasting_and_standard() -> None:
    person = Rater("me", taste=2.0)
    simulated = SimulatedRaters(lambda prompts, responses: [0.0] * len(responses), [person])
    texts = [f"text {i}" for i in range(1000)]
    felt = simulated.utilities(["p"] * 1000, texts, [person] * 1000)
    assert felt.tolist() == simulated.utilities(["p"] * 1000, texts, [person] * 1000).tolist()
    assert (felt.mean(), felt.std()) == pytest.approx((0.0, 2.0), abs=0.2)


def test_ceilings_hand_worked_and_reached_by_the_gold() -> None:
    simulated = SimulatedRaters(GOLD, seed=5)
    pairs = (["p"] * 2, [" good", " bad"], [" bad", " fine"])
    win = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1.25))]
    found = ceilings(simulated, *pairs)
    assert (found.best, found.gold) == pytest.approx((sum(win) / 2,) * 2)
    assert found.agreement == pytest.approx(sum(p * p + (1 - p) ** 2 for p in win) / 2)
    prompts, first, second = ([x for x in part for _ in range(N)] for part in pairs)
    made = simulated.compare(prompts, first, second)
    right = [GOLD.score(["p"] * 2, [x.chosen, x.rejected]) for x in made]
    assert np.mean([a > b for a, b in right]) == pytest.approx(found.gold, abs=0.02)


def test_ceilings_bias_lowers_the_golds_own_but_not_the_best() -> None:
    biased = SimulatedRaters(GOLD, [Rater(length_bonus=1.0)])
    found = ceilings(biased, ["p"], [" good"], [" bad bad bad bad"])
    assert found.gold == pytest.approx(1 / (1 + math.exp(-2)))  # 1 + 1 against -4 + 4
    assert ceilings(biased, ["p"], [" good"], [" fine x x"]).gold < 0.5 < found.best


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rater(noise=-1.0), "`noise` must be ≥ 0, got -1.0"),
        (lambda: Rater(lapse=2.0), r"`lapse` must lie in \[0, 1\]"),
        (lambda: LikertScale(3, 3), "`low` must be below `high`"),
        (lambda: SimulatedRaters(GOLD, []), "`raters` must hold people of different names"),
        (lambda: SimulatedRaters(GOLD, [Rater(), Rater()]), "`raters` must hold people of different names"),
    ],
)
def test_unusable_settings_are_errors(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
