import dataclasses
import math

import numpy as np
import pytest

from tests.oracles import brute_force
from textenv.envs import toy
from textenv.errors import ConfigError, ShapeError

MDPS = {
    "eos": toy.ToyMDP.random(np.random.default_rng(1), 3, 3),
    "dense": toy.ToyMDP.random(np.random.default_rng(2), 3, 3, dense=True),
    "fixed-length": toy.ToyMDP.random(np.random.default_rng(3), 3, 2, has_eos=False),
    "copying": toy.ToyMDP.copying(3, 3),
}


@pytest.fixture(params=MDPS.values(), ids=list(MDPS))
def mdp(request) -> toy.ToyMDP:
    return request.param


def random_policy(mdp: toy.ToyMDP, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.vocab_size), size=mdp.num_states)


def test_states_are_numbered_as_listed(mdp):
    listed = list(mdp.states())
    assert brute_force.row_numbers(mdp) == {state: i for i, state in enumerate(listed)}
    assert [mdp.state_index(*state) for state in listed] == list(range(mdp.num_states))


def test_answers_are_all_complete_answers(mdp):
    expected = {(p, a) for p in range(mdp.num_prompts) for a in brute_force.complete_answers(mdp)}
    assert set(mdp.answers()) == expected


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_solve_equals_normalising_over_whole_answers(mdp, beta):
    solution = toy.solve(mdp, beta)
    expected = brute_force.optimal_answers(mdp, beta)
    found = toy.answer_distribution(mdp, solution.policy)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[a] for a in expected], list(expected.values()), rtol=1e-10)
    assert solution.objective == pytest.approx(brute_force.optimal_value(mdp, beta), rel=1e-12)


def test_solve_policy_is_reference_times_exponential_of_q(mdp):
    solution = toy.solve(mdp, 0.5)
    advantage = solution.q_values - solution.values[:, None]
    np.testing.assert_allclose(solution.policy, mdp.ref_probs * np.exp(advantage / 0.5), rtol=1e-12)


def test_solve_without_kl_takes_the_best_answer(mdp):
    best = [
        max(brute_force.total_reward(mdp, prompt, answer) for answer in brute_force.complete_answers(mdp))
        for prompt in range(mdp.num_prompts)
    ]
    assert toy.solve(mdp, 0.0).objective == pytest.approx(np.mean(best), rel=1e-12)


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.4, 1.0), (0.4, 0.9)])
def test_evaluate_equals_the_sum_over_answers(mdp, beta, gamma):
    policy = random_policy(mdp)
    found = toy.evaluate(mdp, policy, beta, gamma=gamma)
    assert found.objective == pytest.approx(brute_force.objective(mdp, policy, beta, gamma), rel=1e-10)
    assert found.expected_reward == pytest.approx(brute_force.objective(mdp, policy, 0.0, gamma), rel=1e-10)


def test_kl_equals_the_divergence_over_answers(mdp):
    policy = random_policy(mdp)
    reference = toy.answer_distribution(mdp, mdp.ref_probs)
    expected = toy.answer_kl(toy.answer_distribution(mdp, policy), reference)
    by_hand = sum(
        math.exp(lp) * (lp - brute_force.log_probability(mdp, mdp.ref_probs, prompt, answer))
        for prompt in range(mdp.num_prompts)
        for answer in brute_force.complete_answers(mdp)
        for lp in [brute_force.log_probability(mdp, policy, prompt, answer)]
    )
    assert toy.evaluate(mdp, policy, 1.0).kl == pytest.approx(expected, rel=1e-10)
    assert expected == pytest.approx(by_hand / mdp.num_prompts, rel=1e-10)


def test_reference_has_no_divergence_from_itself(mdp):
    assert toy.evaluate(mdp, mdp.ref_probs, 1.0).kl == 0.0


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.4, 1.0), (0.4, 0.8)])
def test_policy_gradient_equals_finite_differences(mdp, beta, gamma):
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(mdp.num_states, mdp.vocab_size))
    gradient = toy.policy_gradient(mdp, logits, beta, gamma=gamma)
    for row, token in zip(rng.integers(mdp.num_states, size=6), rng.integers(mdp.vocab_size, size=6), strict=True):
        step = np.zeros_like(logits)
        step[row, token] = 1e-5
        up = brute_force.objective(mdp, toy.softmax_policy(logits + step), beta, gamma)
        down = brute_force.objective(mdp, toy.softmax_policy(logits - step), beta, gamma)
        assert gradient[row, token] == pytest.approx((up - down) / 2e-5, abs=1e-8)


def test_policy_gradient_vanishes_at_the_optimum(mdp):
    solution = toy.solve(mdp, 0.7)
    gradient = toy.policy_gradient(mdp, np.log(solution.policy), 0.7)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_sampler_distribution_equals_the_product_of_transformed_rows(mdp):
    def top_2_at_half_temperature(probs, prefix):
        del prefix
        sharp = np.where(probs >= np.sort(probs)[-2], probs**2, 0.0)
        return sharp / sharp.sum()

    policy = random_policy(mdp)
    found = toy.sampler_distribution(mdp, policy, top_2_at_half_temperature)
    table = np.stack([top_2_at_half_temperature(row, ()) for row in policy])
    for answer, probability in found.items():
        assert probability == pytest.approx(math.exp(brute_force.log_probability(mdp, table, *answer)), rel=1e-12)
    for prompt in range(mdp.num_prompts):
        assert sum(p for (q, _), p in found.items() if q == prompt) == pytest.approx(1.0)


def test_best_of_n_equals_the_sum_over_tuples():
    mdp = toy.ToyMDP.copying(3, 2)
    policy = random_policy(mdp)
    base = toy.answer_distribution(mdp, policy)
    expected = dict.fromkeys(base, 0.0)
    for prompt in range(mdp.num_prompts):
        own = [a for a in base if a[0] == prompt]
        for first in own:
            for second in own:
                better = max([first, second], key=lambda a: brute_force.total_reward(mdp, *a))
                expected[better] += base[first] * base[second]
    found = toy.best_of_n_distribution(mdp, policy, 2)
    np.testing.assert_allclose([found[a] for a in base], [expected[a] for a in base], rtol=1e-9)


def test_copying_rewards_are_the_share_of_matching_places():
    mdp = toy.ToyMDP.copying(4, 4)
    assert mdp.token_rewards(1, (2, 2, 3, 2)) == [0.0, 0.0, 0.0, 0.75]
    assert mdp.token_rewards(0, (1, 0)) == [0.0, 0.25]
    assert toy.solve(mdp, 0.0).objective == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy.ToyMDP(vocab_size=9), r"`vocab_size` must lie in \[2, 8\], got 9"),
        (lambda: toy.ToyMDP(horizon=7), r"`horizon` must lie in \[1, 6\], got 7"),
        (lambda: toy.ToyMDP(num_prompts=4), r"`num_prompts` must be below `vocab_size` \(4\), got 4"),
        (lambda: toy.solve(toy.ToyMDP(), -1.0), "beta must be ≥ 0, got -1.0"),
        (lambda: toy.ToyMDP().state_index(0, (0, 1)), "is no state"),
        (lambda: toy.ToyMDP().state_index(7, ()), "there is no prompt 7"),
        (lambda: toy.ToyMDP().token_rewards(0, (0, 1)), "ends before its last token"),
        (lambda: toy.best_of_n_distribution(toy.ToyMDP(2, 1, 1), np.full((1, 2), 0.5), 0), "n must be ≥ 1"),
    ],
)
def test_unusable_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_tables_of_the_wrong_shape_are_refused():
    with pytest.raises(ShapeError, match="rewards must be a finite array of shape"):
        toy.ToyMDP(rewards=np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="every row of ref_probs must be a distribution"):
        toy.ToyMDP(2, 1, 1, ref_probs=np.array([[0.5, 0.6]]))
    with pytest.raises(ShapeError, match="the policy has shape"):
        toy.evaluate(toy.ToyMDP(), np.ones((1, 4)))
    with pytest.raises(ShapeError, match="row 0 of the policy is no distribution"):
        toy.evaluate(toy.ToyMDP(2, 1, 1), np.array([[0.5, 0.6]]))


def test_infinite_kl_in_a_state_that_is_never_reached_does_no_harm():
    mdp = toy.ToyMDP.random(np.random.default_rng(0), 3, 2)
    reference = mdp.ref_probs.copy()
    unreached = int(mdp.next_states[mdp.start_states[0]].max())
    reference[unreached] = [0.0, 0.5, 0.5]
    mdp = dataclasses.replace(mdp, ref_probs=reference)
    policy = mdp.ref_probs.copy()
    policy[unreached] = [0.5, 0.25, 0.25]
    for state in range(mdp.num_states):
        taken = np.where(mdp.next_states[state] == unreached, 0.0, policy[state])
        policy[state] = taken / taken.sum()
    found = toy.evaluate(mdp, policy, beta=0.5)
    assert np.isfinite([found.objective, found.kl, found.expected_reward]).all()
