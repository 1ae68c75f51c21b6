"""KL and entropy estimators against exact values by enumeration on toy problems, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.textenv.trajectories.helpers import assert_unbiased, sample_toy
from textenv.envs import toy
from textenv.errors import ConfigError, ShapeError
from textenv.trajectories import Ragged, entropy_estimate, kl_estimate, log_ratios, per_token, rao_blackwell_kl

N = 40_000


@pytest.fixture(scope="module")
def problem():
    mdp = toy.ToyMDP.random(np.random.default_rng(3), vocab_size=4, horizon=4, num_prompts=2)
    truth = toy.solve(mdp, beta=0.7)
    return mdp, truth, sample_toy(mdp, truth.policy, N, np.random.default_rng(0))


def ratios_of(problem) -> Ragged:
    mdp, truth, answers = problem
    return answers.of(np.log(truth.policy) - np.log(mdp.ref_probs))


@pytest.mark.parametrize(
    ("estimator", "level"), [("k1", "token"), ("k1", "sequence"), ("k3", "token"), ("k3", "sequence")]
)
def test_k1_and_k3_are_unbiased(problem, estimator, level):
    found = kl_estimate(ratios_of(problem), estimator=estimator, level=level)
    assert found.units == N
    assert_unbiased(found.value, found.standard_error, problem[1].kl)


def test_k2_has_its_exact_mean_and_not_the_divergence(problem):
    mdp, truth, _ = problem
    squares = truth.policy * (np.log(truth.policy) - np.log(mdp.ref_probs)) ** 2 / 2
    exact = float((truth.occupancy[:, None] * squares).sum())
    found = kl_estimate(ratios_of(problem), estimator="k2")
    assert_unbiased(found.value, found.standard_error, exact)
    assert abs(found.value - truth.kl) > 4 * found.standard_error


def test_rao_blackwell_is_unbiased_with_less_variance(problem):
    mdp, truth, answers = problem
    steps = (truth.policy * (np.log(truth.policy) - np.log(mdp.ref_probs))).sum(1)
    found = rao_blackwell_kl(answers.ragged(steps[answers.states]))
    assert_unbiased(found.value, found.standard_error, truth.kl)
    assert found.standard_error < 0.6 * kl_estimate(ratios_of(problem)).standard_error


def test_rao_blackwell_can_vary_more_than_k1():
    """Where a prefix's later divergence makes up for its own log-ratio, k1 is exact: no theorem forbids it."""
    log_ratio = np.log([0.5 / 0.8, 0.5 / 0.2])
    later = 1.0 - log_ratio  # of a second token that always has this log-ratio: p lies on a part of q's support
    drawn = np.random.default_rng(0).integers(2, size=1000)
    k1 = Ragged(np.stack([log_ratio[drawn], later[drawn]], 1).ravel(), np.arange(0, 2001, 2), np.ones(1000, bool))
    exact_first = float((0.5 * log_ratio).sum())
    exact = Ragged(np.stack([np.full(1000, exact_first), later[drawn]], 1).ravel(), k1.offsets, k1.known)
    assert kl_estimate(k1).standard_error < 1e-9
    assert rao_blackwell_kl(exact).standard_error > 1e-3


def test_standard_errors_are_those_of_repetitions(problem):
    mdp, truth, _ = problem
    table = np.log(truth.policy) - np.log(mdp.ref_probs)
    rng = np.random.default_rng(5)
    found = [kl_estimate(sample_toy(mdp, truth.policy, 400, rng).of(table)) for _ in range(300)]
    spread = np.std([f.value for f in found])
    assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.15)


def test_standard_errors_of_groups_are_those_of_repetitions():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 16)
    found: dict[str, list] = {}
    for _ in range(200):
        means = np.repeat(rng.normal(1, 0.5, 20), 16)  # prompts differ, answers to one hardly
        steps = Ragged.from_rows([np.full(2, (m + 0.05 * rng.normal()) / 2) for m in means])
        found.setdefault("k1", []).append(kl_estimate(steps, groups=groups))
        found.setdefault("exact", []).append(rao_blackwell_kl(steps, groups=groups))
        found.setdefault("entropy", []).append(entropy_estimate(steps, groups=groups))
        found.setdefault("token", []).append(per_token(steps, groups=groups))
    for name, estimates in found.items():
        spread = np.std([f.value for f in estimates])
        assert np.mean([f.standard_error for f in estimates]) == pytest.approx(spread, rel=0.15), name
        assert estimates[0].units == 20
    alike = Ragged.from_rows([np.ones(2)] * 320)
    assert kl_estimate(alike).units == 320
    assert kl_estimate(alike, groups=np.zeros(320)).units == 320  # one prompt: the figure is about it alone


def test_groups_of_unequal_sizes_count_alike_and_tokens_by_their_number():
    values = Ragged.from_rows([np.ones(2), np.full(2, 3.0), np.full(1, 5.0)])
    assert rao_blackwell_kl(values, groups=["a", "a", "b"]).value == pytest.approx((4 + 5) / 2)
    assert per_token(values, groups=["a", "a", "b"]).value == pytest.approx(13 / 5)
    with pytest.raises(ShapeError, match=r"`groups` has shape \(2,\), expected \(3,\)"):
        per_token(values, groups=["a", "b"])
    with pytest.raises(ShapeError, match=r"`groups` has shape \(2,\), expected \(3,\)"):
        kl_estimate(values, groups=["a", "b"])


def test_entropy_estimates_are_unbiased(problem):
    _, truth, answers = problem
    steps = -(truth.policy * np.log(truth.policy)).sum(1)
    exact = float((truth.occupancy * steps).sum())
    for values in (answers.ragged(steps[answers.states]), answers.of(-np.log(truth.policy))):
        found = entropy_estimate(values)
        assert_unbiased(found.value, found.standard_error, exact)
    mean = per_token(answers.ragged(steps[answers.states]))
    assert_unbiased(mean.value, mean.standard_error, exact / truth.occupancy.sum())


def test_estimators_by_hand():
    ratios = Ragged.from_rows([[0.5, -0.5], [1.0]])
    assert kl_estimate(ratios).value == pytest.approx(0.5)
    assert kl_estimate(ratios).standard_error == pytest.approx(0.5)
    assert kl_estimate(ratios, estimator="k2").value == pytest.approx((0.25 + 0.5) / 2)
    assert kl_estimate(ratios, estimator="k2", level="sequence").value == pytest.approx((0 + 0.5) / 2)
    k3 = (np.exp(-0.5) - 1 + 0.5) + (np.exp(0.5) - 1 - 0.5), np.exp(-1) - 1 + 1
    assert kl_estimate(ratios, estimator="k3").value == pytest.approx(np.mean(k3))
    assert per_token(Ragged.from_rows([[1.0, 2.0], [6.0]])).value == pytest.approx(3.0)


def test_impossible_reference_makes_the_divergence_infinite():
    found = kl_estimate(Ragged.from_rows([[np.inf], [0.1]]))
    assert found.value == np.inf
    assert np.isnan(found.standard_error)


def test_log_ratios_skip_what_is_unknown_and_what_the_policy_did_not_choose():
    ours = Ragged.from_rows([[-1.0, -2.0], [-3.0], [-4.0]])
    theirs = Ragged.from_rows([[-1.5, -1.0], None, [-4.5]])
    mask = Ragged.from_rows([[True, False], None, None])
    found = log_ratios(ours, theirs, mask)
    assert found.known.tolist() == [True, False, True]
    assert found.values.tolist() == [0.5, 0.0, 0.5]
    assert found.lengths.tolist() == [2, 0, 1]
    with pytest.raises(ShapeError, match="differ in length"):
        log_ratios(ours, Ragged.from_rows([[-1.0], [-1.0], [-1.0]]))


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="`estimator` must be k1, k2 or k3"):
        kl_estimate(Ragged.from_rows([[0.0]]), estimator="k4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="`log_ratios` of answer 1 is not known"):
        kl_estimate(Ragged.from_rows([[0.0], None]))
    with pytest.raises(ConfigError, match="`denominators` sum to 0"):
        per_token(Ragged.from_rows([[]]))
