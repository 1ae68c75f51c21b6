"""Importance weights against exact values by enumeration on toy problems, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.textenv.trajectories.helpers import assert_unbiased, make, sample_toy
from textenv.envs import toy
from textenv.envs.toy_policy import ToyGenerativePolicy
from textenv.errors import ConfigError, DataError, ShapeError
from textenv.sampling import (
    BeamSearch,
    BestOfN,
    BranchingTree,
    PowerSampling,
    RejectionSampling,
    SequentialMonteCarlo,
    Vine,
)
from textenv.sampling.params import SamplingParams
from textenv.trajectories import ImportanceWeights, Ragged, TrajectoryStore, effective_sample_size, importance_weights
from textenv.trajectories.estimators.importance import SELECTED, truncates_support

N = 40_000


@pytest.fixture(scope="module")
def problem():
    mdp = toy.ToyMDP.random(np.random.default_rng(3), vocab_size=4, horizon=3, num_prompts=2)
    truth = toy.solve(mdp, beta=1.0)
    answers = sample_toy(mdp, mdp.ref_probs, N, np.random.default_rng(1))
    ratios = answers.of(np.log(truth.policy) - np.log(mdp.ref_probs))
    return truth, answers, ImportanceWeights(ratios, np.ones(len(ratios.values), bool), np.zeros(N, bool))


@pytest.mark.parametrize("self_normalized", [False, True])
def test_estimates_under_another_policy_are_unbiased(problem, self_normalized):
    truth, answers, weights = problem
    found = weights.estimate(answers.returns, self_normalized=self_normalized)
    assert_unbiased(found.value, found.standard_error, truth.expected_reward)
    assert abs(found.value - answers.returns.mean()) > 10 * found.standard_error


@pytest.mark.parametrize("self_normalized", [False, True])
def test_answers_to_equal_prompts_are_the_units_of_the_error(self_normalized):
    rng = np.random.default_rng(0)
    logs, values, prompts = rng.normal(0, 0.3, 40), rng.normal(size=40), np.repeat(np.arange(8), 5)
    rows = Ragged.from_rows([np.array([each]) for each in logs])
    some = ImportanceWeights(rows, np.ones(40, bool), np.zeros(40, bool), None, prompts)
    w = np.exp(logs)
    found = some.estimate(values, self_normalized=self_normalized)
    assert found.value == pytest.approx((w * values).sum() / (w.sum() if self_normalized else 40))
    assert found.units == 8
    alone = some.estimate(values, self_normalized=self_normalized, groups=np.arange(40))
    assert (alone.value, alone.units) == (pytest.approx(found.value), 40)


def test_weights_have_mean_one_and_the_exact_effective_size(problem):
    _, _, weights = problem
    assert weights.sequence().mean() == pytest.approx(1.0, abs=0.03)
    assert weights.sequence(normalize=True).sum() == pytest.approx(1.0)
    w = np.exp(weights.log_weights)
    assert weights.effective_sample_size() == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_prefix_weights_are_right_for_rewards_along_the_way():
    rng = np.random.default_rng(8)
    mdp = toy.ToyMDP.random(rng, vocab_size=3, horizon=4, num_prompts=2, has_eos=False, dense=True)
    truth = toy.solve(mdp, beta=1.0)
    answers = sample_toy(mdp, mdp.ref_probs, N, rng)
    ratios = answers.of(np.log(truth.policy) - np.log(mdp.ref_probs))
    weights = ImportanceWeights(ratios, np.ones(len(ratios.values), bool), np.zeros(N, bool))
    paid = answers.of(mdp.rewards)
    decided = Ragged(weights.tokens(prefix=True).values * paid.values, paid.offsets, paid.known).sums()
    assert_unbiased(decided.mean(), decided.std() / np.sqrt(N), truth.expected_reward)
    whole = weights.sequence() * answers.returns
    assert decided.std() < whole.std()


def test_weights_by_hand():
    ratios = Ragged.from_rows([np.log([2.0, 0.5]), np.log([4.0]), np.zeros(0)])
    weights = ImportanceWeights(ratios, np.ones(3, bool), np.zeros(3, bool))
    np.testing.assert_allclose(weights.sequence(), [1, 4, 1])
    np.testing.assert_allclose(weights.sequence(clip=(None, 2)), [1, 2, 1])
    np.testing.assert_allclose(weights.sequence(clip=(1.5, 2)), [1.5, 2, 1.5])
    np.testing.assert_allclose(weights.sequence(normalize=True), np.array([1, 4, 1]) / 6)
    np.testing.assert_allclose(weights.geometric(), [1, 4, 1])
    np.testing.assert_allclose(weights.tokens().values, [2, 0.5, 4])
    np.testing.assert_allclose(weights.tokens(prefix=True).values, [2, 1, 4])
    np.testing.assert_allclose(weights.tokens(clip=(0.8, 1.2)).values, [1.2, 0.8, 1.2])
    assert weights.effective_sample_size() == pytest.approx(36 / 18)
    assert weights.estimate([1, 2, 3]).value == pytest.approx((1 + 8 + 3) / 3)
    assert weights.estimate([1, 2, 3], self_normalized=True).value == pytest.approx((1 + 8 + 3) / 6)
    with pytest.raises(ShapeError, match=r"`values` has shape \(2,\), expected \(3,\)"):
        weights.estimate([1, 2])
    with pytest.raises(ConfigError, match="`clip` must be"):
        weights.sequence(clip=(2, 1))


@pytest.mark.parametrize(
    ("logs", "expected"),
    [([0, 0, 0], 3), ([1000, 1000], 2), ([0, -np.inf], 1), ([-np.inf, -np.inf], 0), ([np.log(3), 0], 16 / 10)],
)
def test_effective_sample_size_by_hand(logs, expected):
    assert effective_sample_size(logs) == pytest.approx(expected)


@pytest.mark.parametrize("logs", [[], [np.nan], [np.inf], [[0.0]]])
def test_effective_sample_size_refuses_what_is_no_weight(logs):
    with pytest.raises(ShapeError, match="hold neither NaN nor"):
        effective_sample_size(logs)


class Uniform:
    """A policy that finds every token equally likely."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[int] = []

    def logprobs(self, prompts, responses, *, temperature: float = 1.0):
        self.calls.append(len(prompts))
        return [np.full(len(r), -np.log(self.size) / temperature, np.float32) for r in responses]


def test_stored_answers_are_scored_in_batches_of_like_lengths_and_stay_in_order(tmp_path):
    rng = np.random.default_rng(0)
    trajectories = [make(int(n), seed=i) for i, n in enumerate(rng.integers(0, 9, 50))]
    policy = Uniform(10)
    found = importance_weights(trajectories, policy, batch_size=16)
    for row, trajectory in enumerate(trajectories):
        np.testing.assert_allclose(
            np.asarray(found.log_ratios[row]), -np.log(10) - trajectory.behaviour_logprobs, rtol=1e-5
        )
    assert max(policy.calls) == 16
    store = TrajectoryStore(tmp_path / "s")
    store.append(trajectories)
    np.testing.assert_allclose(store.importance_weights(policy).log_weights, found.log_weights)
    plain = importance_weights(trajectories, policy.logprobs)
    np.testing.assert_allclose(plain.log_weights, found.log_weights)
    cooled = np.asarray(importance_weights(trajectories[:1], policy, temperature=0.5).log_ratios[0])
    np.testing.assert_allclose(cooled, -2 * np.log(10) - trajectories[0].behaviour_logprobs, rtol=1e-5)


def test_tokens_that_the_policy_did_not_choose_do_not_count():
    trajectory = make(3, action_mask=np.array([True, False, True]))
    found = importance_weights([trajectory], Uniform(10))
    assert found.log_ratios.values[1] == 0
    assert found.chosen.tolist() == [True, False, True]
    ours = -np.log(10) - trajectory.behaviour_logprobs[[0, 2]]
    assert np.log(found.geometric()[0]) == pytest.approx(ours.mean())


@pytest.mark.parametrize(
    ("sampling", "truncated"),
    [
        ({}, False),
        ({"temperature": 0.7}, False),
        ({"top_k": 5}, True),
        ({"top_p": 0.9}, True),
        ({"temperature": 0}, True),
        ({"temperature": 1.0, "unheard_of": 3}, False),
        (vars(SamplingParams()), False),
    ],
)
def test_truncated_supports_are_recognised(sampling, truncated):
    assert truncates_support(sampling) is truncated


def test_truncated_support_is_refused_or_flagged():
    rows = [make(), make(sampling={"temperature": 0.9, "top_k": 5})]
    with pytest.raises(DataError, match=r"trajectory 1 was drawn with temperature=0.9, top_k=5, which leaves out"):
        importance_weights(rows, Uniform(5))
    assert importance_weights(rows, Uniform(5), support="flag").truncated_support.tolist() == [False, True]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("best_of_n", "the best of several draws; weigh plain draws"),
        ("rejection", "drawn until the score was high enough"),
        ("power", "the end of a Markov chain"),
        ("beam", "found by search, not drawn"),
        ("tree", "shares its beginning with others"),
        ("smc", "the weight to use is `log_weight`"),
    ],
)
def test_selected_answers_are_refused_or_flagged(source, message):
    rows = [make(), make(source=source)]
    with pytest.raises(DataError, match=f"trajectory 1 is no draw to be weighed: .* '{source}', .*{message}"):
        importance_weights(rows, Uniform(5))
    found = importance_weights(rows, Uniform(5), support="flag").selected
    assert found is not None
    assert found.tolist() == [False, True]


def test_methods_name_themselves_as_the_estimators_know_them():
    mdp = toy.ToyMDP.copying(vocab_size=3, horizon=2)
    policy, params = ToyGenerativePolicy(mdp), SamplingParams(max_new_tokens=2)
    every = (
        BestOfN(2),
        RejectionSampling(),
        PowerSampling(steps=1),
        BeamSearch(2),
        BranchingTree(budget_tokens=4),
        SequentialMonteCarlo(2),
    )
    for method in every:
        found = method.sample(policy, ["a"], policy.reward, params=params).trajectories
        with pytest.raises(DataError, match="is no draw to be weighed"):
            importance_weights(found, policy)
    plain = Vine(2).sample(policy, ["a"], policy.reward, params=params).trajectories
    assert not {t.source for t in plain} & set(SELECTED)


def test_unusable_questions_are_refused():
    unknown = np.full(3, np.nan, np.float32)
    with pytest.raises(DataError, match="does not say how probable its draws were"):
        importance_weights([make(behaviour_logprobs=unknown)], Uniform(5))
    with pytest.raises(DataError, match="no trajectories to weigh"):
        importance_weights([], Uniform(5))
    with pytest.raises(ConfigError, match="`support` must be"):
        importance_weights([make()], Uniform(5), support="ignore")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="must be a LogprobFn or have a method `logprobs`, got str"):
        importance_weights([make()], "policy")
    with pytest.raises(ConfigError, match="a plain LogprobFn has its own temperature"):
        importance_weights([make()], Uniform(5).logprobs, temperature=0.5)
    with pytest.raises(ShapeError, match=r"returned shape \(1,\) for an answer of 3 tokens"):
        importance_weights([make()], lambda prompts, responses: [np.zeros(1)])
