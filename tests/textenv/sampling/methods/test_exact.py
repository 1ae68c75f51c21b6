"""Every method against enumeration on toy problems."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.textenv.sampling.methods.conftest import Toy, assert_distribution, assert_mean, key
from textenv.envs.toy import best_of_n_distribution, evaluate, solve
from textenv.sampling import SamplingParams
from textenv.sampling.methods import (
    BeamSearch,
    BestOfN,
    BranchingTree,
    PowerSampling,
    RejectionSampling,
    SequentialMonteCarlo,
    Vine,
    effective_sizes,
    prefix_returns,
    systematic,
)

# --- best-of-n and rejection ------------------------------------------------------------------------------------------


def test_best_of_n_has_the_exact_distribution(toy: Toy):
    repeats = 3000
    result = BestOfN(3, max_batch=10_000).sample(
        toy.policy, toy.prompts[:1] * repeats, toy.score, seed=1, params=toy.params
    )
    assert_distribution([key(t) for t in result.trajectories], best_of_n_distribution(toy.mdp, toy.mdp.ref_probs, 3))
    first = result.details[0]
    assert first.scores.max() == result.trajectories[0].score == first.trajectories[first.chosen].score


def test_best_of_n_costs_every_answer(toy: Toy):
    result = BestOfN(4).sample(toy.policy, toy.prompts, toy.score, params=toy.params)
    lengths = [len(t) for detail in result.details for t in detail.trajectories]
    assert result.cost.generated_tokens == sum(lengths)
    assert result.cost.reward_calls == len(lengths) == 8
    assert result.cost.fed_tokens == len(toy.prompts) + sum(n - 1 for n in lengths)


def test_rejection_has_the_exact_distribution_and_rate(toy: Toy):
    rewards = toy.rewards()
    threshold = float(np.median(list(rewards.values())))
    target = {a: p for a, p in toy.base.items() if rewards[a] >= threshold}
    rate = sum(p for a, p in target.items() if a[0] == 0)
    repeats = 3000
    result = RejectionSampling(threshold, max_tries=200, round_size=3).sample(
        toy.policy, toy.prompts[:1] * repeats, toy.score, params=toy.params
    )
    assert all(detail.accepted for detail in result.details)
    assert_distribution([key(t) for t in result.trajectories], toy.normalised(target))
    # The number of tries is geometric.
    assert_mean([detail.tries for detail in result.details], 1 / rate)
    assert result.cost.reward_calls == sum(len(detail.scores) for detail in result.details)
    assert result.cost.reward_calls < repeats * 3 / rate


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_rejection_rate_is_unbiased_however_rounds_end(toy: Toy, size: int):
    rewards = toy.rewards()
    threshold = float(np.quantile(list(rewards.values()), 0.8))
    rate = sum(p for a, p in toy.base.items() if rewards[a] >= threshold and a[0] == 0)
    result = RejectionSampling(threshold, max_tries=20, round_size=size).sample(
        toy.policy, toy.prompts[:1] * 3000, toy.score, params=toy.params
    )
    assert_mean([detail.acceptance_rate for detail in result.details], rate)
    shares = [float((detail.scores >= threshold).mean()) for detail in result.details]
    assert np.mean(shares) > 1.5 * rate  # what stopping at a success does to the share of all tries


def test_rejection_that_never_succeeds_says_so_and_gives_the_best(toy: Toy):
    result = RejectionSampling(1e9, max_tries=5, round_size=2).sample(
        toy.policy, toy.prompts, toy.score, params=toy.params
    )
    for detail, trajectory in zip(result.details, result.trajectories, strict=True):
        assert not detail.accepted
        assert (detail.tries, len(detail.scores), detail.acceptance_rate) == (5, 5, 0.0)
        assert trajectory.score == detail.scores.max()


# --- beam search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_of_full_width_finds_the_most_probable_answers(penalty: float, eos: bool):
    toy = Toy(3, vocab_size=4, horizon=4, eos=eos)
    result = BeamSearch(256, length_penalty=penalty, num_return=5).sample(toy.policy, toy.prompts, params=toy.params)
    for prompt, detail in enumerate(result.details):
        ranked = sorted(toy.of_prompt(prompt), key=lambda a: -math.log(toy.base[a]) / len(a[1]) ** penalty)
        found = [key(t) for t in result.answers_to(prompt)]
        assert found == ranked[:5]
        np.testing.assert_allclose(detail.log_probs, [math.log(toy.base[a]) for a in found], atol=1e-12)
        sizes = np.array([len(a[1]) for a in found])
        np.testing.assert_allclose(detail.beam_scores, detail.log_probs / sizes**penalty)
    assert result.cost.reward_calls == 0
    assert not any(trajectory.knows_behaviour for trajectory in result.trajectories)


def test_beam_of_width_one_is_greedy(toy: Toy):
    found = BeamSearch(1).sample(toy.policy, toy.prompts, toy.score, params=toy.params)
    from textenv.sampling import generate

    greedy = generate(toy.policy, toy.prompts, dataclasses.replace(toy.params, temperature=0))
    assert [key(t) for t in found.trajectories] == [key(t) for t in greedy]
    assert found.cost.reward_calls == len(toy.prompts)
    assert found.trajectories[0].score == toy.score(*[[x] for x in (greedy[0].prompt, greedy[0].response)])[0]


def test_diverse_groups_choose_apart_and_report_true_logprobs():
    toy = Toy(5, vocab_size=5, horizon=4, prompts=1)
    plain = BeamSearch(3, num_groups=3, num_return=3).sample(toy.policy, toy.prompts, params=toy.params)
    diverse = BeamSearch(3, num_groups=3, diversity_penalty=50.0, num_return=3).sample(
        toy.policy, toy.prompts, params=toy.params
    )
    assert len({key(t) for t in plain.trajectories}) == 1  # three greedy searches
    assert len({t.token_ids[0] for t in diverse.trajectories}) == 3
    assert set(diverse.details[0].groups.tolist()) == {0, 1, 2}
    for trajectory, log_prob in zip(diverse.trajectories, diverse.details[0].log_probs, strict=True):
        assert log_prob == pytest.approx(math.log(toy.base[key(trajectory)]))


def test_beam_masks_are_kept(toy: Toy):
    params = dataclasses.replace(toy.params, deny_tokens=(0,))
    result = BeamSearch(4, num_return=4).sample(toy.policy, toy.prompts, params=params)
    assert all(0 not in t.token_ids for t in result.trajectories)


# --- Monte-Carlo returns ----------------------------------------------------------------------------------------------


def test_vine_values_equal_exact_values_within_their_errors(toy: Toy):
    truth = evaluate(toy.mdp, toy.mdp.ref_probs, 0.0)
    result = Vine(rollouts=400, max_batch=5000).sample(toy.policy, toy.prompts * 3, toy.score, params=toy.params)
    checked = 0
    for trajectory, detail in zip(result.trajectories, result.details, strict=True):
        prompt, tokens = key(trajectory)
        for place, position in enumerate(detail.positions[:-1]):
            state = toy.mdp.state_index(prompt, tokens[:position])
            assert_mean(detail.returns[place], truth.values[state])
            assert detail.values[place] == pytest.approx(detail.returns[place].mean())
            # The value after a token is the Q of taking it.
            after = detail.returns[place + 1]
            assert_mean(after, truth.q_values[state, tokens[position]])
            checked += 1
        assert detail.values[-1] == pytest.approx(trajectory.score)
        assert detail.advantages.sum() == pytest.approx(detail.values[-1] - detail.values[0])
    assert checked >= 6
    continued = sum(len(d.positions) - 1 for d in result.details)
    assert result.cost.reward_calls == len(result.trajectories) + 400 * continued


def test_vine_every_second_token_values_every_second_prefix():
    toy = Toy(1, eos=False, horizon=5)
    result = Vine(rollouts=2, every=2).sample(toy.policy, toy.prompts, toy.score, params=toy.params)
    assert result.details[0].positions.tolist() == [0, 2, 4, 5]
    # Answers of 5 tokens, and continuations of 5, 3 and 1 tokens, for two prompts.
    assert result.cost.generated_tokens == 2 * (5 + 2 * (5 + 3 + 1))


def test_prefix_returns_from_chosen_prefixes(toy: Toy):
    truth = evaluate(toy.mdp, toy.mdp.ref_probs, 0.0)
    prefixes = [(), (1,), (2, 1)]
    returns, cost = prefix_returns(
        toy.policy, [toy.prompts[1]] * 3, prefixes, toy.score, rollouts=500, params=toy.params
    )
    assert returns.shape == (3, 500)
    for found, prefix in zip(returns, prefixes, strict=True):
        assert_mean(found, truth.values[toy.mdp.state_index(1, prefix)])
    assert cost.reward_calls == 1500


# --- trees ------------------------------------------------------------------------------------------------------------


def test_tree_values_are_unbiased_and_the_budget_holds():
    toy = Toy(2, horizon=4, prompts=1)
    truth = evaluate(toy.mdp, toy.mdp.ref_probs, 0.0)
    result = BranchingTree(budget_tokens=14, segment_tokens=1, width=2).sample(
        toy.policy, toy.prompts * 400, toy.score, params=toy.params
    )
    assert_mean([detail.values[0] for detail in result.details], truth.values[0])
    below = [d.values[1] - truth.q_values[0, d.segments[1][0]] for d in result.details]
    assert_mean(below, 0.0)
    assert max(detail.generated_tokens for detail in result.details) <= 14
    assert sum(detail.generated_tokens for detail in result.details) == result.cost.generated_tokens
    assert np.mean([len(detail.leaves) for detail in result.details]) > 2


def test_tree_leaves_are_paths_of_the_tree():
    toy = Toy(4, vocab_size=4, horizon=5)
    result = BranchingTree(budget_tokens=60, segment_tokens=2, width=3).sample(
        toy.policy, toy.prompts, toy.score, params=toy.params
    )
    for prompt, detail in enumerate(result.details):
        leaves = result.answers_to(prompt)
        assert len(leaves) == len(detail.leaves)
        assert (detail.parents[1:] < np.arange(1, len(detail.parents))).all()
        for node, leaf in zip(detail.leaves.tolist(), leaves, strict=True):
            assert leaf.score == detail.values[node]
            assert detail.depths[node] == len(leaf)
            path = []
            while node >= 0:
                path.insert(0, detail.segments[node])
                node = int(detail.parents[node])
            assert np.concatenate(path).tolist() == leaf.token_ids.tolist()
            log_prob = math.log(toy.base[key(leaf)])
            assert leaf.logprobs.sum() == pytest.approx(log_prob, abs=1e-5)


# --- sequential Monte Carlo -------------------------------------------------------------------------------------------

BETA = 0.7


def good_twist(toy: Toy, beta: float = BETA):
    """β log E[exp(score / β)] from each prefix on."""
    values = solve(toy.mdp, beta).values

    def twist(prompts: list[str], prefixes: list[str]) -> list[float]:
        tokens = [toy.policy.tokenizer.encode(p) for p in prefixes]
        first = [toy.policy.encode_prompt(p)[0] - 1 for p in prompts]
        return [float(values[toy.mdp.state_index(p, t)]) for p, t in zip(first, tokens, strict=True)]

    return twist


def poor_twist(prompts: list[str], prefixes: list[str]) -> list[float]:
    return [(-1.0) ** len(p) + 0.5 * p.count("a") for p in prefixes]


@pytest.mark.parametrize(
    ("twist", "threshold", "proposal"),
    [
        (None, 0.0, SamplingParams()),
        (None, 0.5, SamplingParams(temperature=1.6)),
        ("poor", 0.0, SamplingParams()),
        ("poor", 0.7, SamplingParams()),
        ("poor", 1.0, SamplingParams(repetition_penalty=1.4)),
        ("good", 0.9, SamplingParams(temperature=0.8)),
    ],
    ids=["importance", "hot", "twist", "adaptive", "always", "good"],
)
def test_smc_estimates_of_z_are_unbiased(toy: Toy, twist, threshold: float, proposal: SamplingParams):
    rewards = toy.rewards()
    weights = {a: p * math.exp(rewards[a] / BETA) for a, p in toy.base.items()}
    z = sum(w for a, w in weights.items() if a[0] == 0)
    function = {None: None, "poor": poor_twist, "good": good_twist(toy)}[twist]
    method = SequentialMonteCarlo(6, BETA, function, ess_threshold=threshold, max_batch=10_000)
    params = dataclasses.replace(proposal, max_new_tokens=toy.params.max_new_tokens)
    result = method.sample(toy.policy, toy.prompts[:1] * 1200, toy.score, seed=2, params=params)
    estimates = np.exp([detail.log_z for detail in result.details])
    assert_mean(estimates, z)
    # Weighing by the estimate of Z makes weighted sums unbiased too: E[Ẑ · Σ w r] = Σ γ r.
    sums = [e * d.expectation(d.scores) for e, d in zip(estimates, result.details, strict=True)]
    assert_mean(sums, sum(w * rewards[a] for a, w in weights.items() if a[0] == 0))
    if twist is not None:
        assert any(d.resampled.any() for d in result.details) == (threshold > 0)


def test_smc_twist_cancels_where_nothing_is_resampled(toy: Toy):
    plain, twisted = (
        SequentialMonteCarlo(16, BETA, twist, ess_threshold=0.0).sample(
            toy.policy, toy.prompts, toy.score, params=toy.params
        )
        for twist in (None, poor_twist)
    )
    for one, other in zip(plain.details, twisted.details, strict=True):
        assert one.log_z == pytest.approx(other.log_z)
        np.testing.assert_allclose(one.log_weights, other.log_weights, atol=1e-12)
        assert not other.resampled.any()


def test_smc_good_twist_loses_fewer_particles_at_the_end():
    """Resampling by the right twist leaves weights that no longer vary with the final score."""
    toy = Toy(8, vocab_size=4, horizon=5, eos=False, prompts=1)
    spreads = []
    for twist, threshold in ((None, 0.0), (good_twist(toy, 0.2), 1.0)):
        method = SequentialMonteCarlo(64, 0.2, twist, ess_threshold=threshold, max_batch=2000)
        result = method.sample(toy.policy, toy.prompts * 30, toy.score, params=toy.params)
        spreads.append(np.std([detail.log_z for detail in result.details]))
    assert spreads[1] < spreads[0]


def test_smc_many_particles_have_the_tilted_distribution(toy: Toy):
    exact = toy.normalised({a: p * math.exp(toy.rewards()[a] / BETA) for a, p in toy.base.items()})
    result = SequentialMonteCarlo(4000, BETA, poor_twist).sample(toy.policy, toy.prompts, toy.score, params=toy.params)
    for prompt, detail in enumerate(result.details):
        found = dict.fromkeys(toy.of_prompt(prompt), 0.0)
        for weight, trajectory in zip(np.exp(detail.log_weights), result.answers_to(prompt), strict=True):
            found[key(trajectory)] += weight
        assert sum(abs(found[a] - exact[a]) for a in found) / 2 < 0.04
        assert np.exp(detail.log_weights).sum() == pytest.approx(1)
        mean = sum(exact[a] * toy.rewards()[a] for a in found)
        assert detail.expectation(detail.scores) == pytest.approx(mean, abs=0.1)


def test_smc_ancestors_lead_to_the_final_particles():
    """Replaying draws and ancestors by hand gives the particles that come out."""
    toy = Toy(7, vocab_size=4, horizon=5, eos=False, prompts=1)
    method = SequentialMonteCarlo(8, BETA, poor_twist, ess_threshold=0.9)
    result = method.sample(toy.policy, toy.prompts, toy.score, seed=3, params=toy.params)
    detail = result.details[0]
    assert detail.resampled.any()
    assert detail.ancestors.shape == (5, 8)
    final = np.stack([t.token_ids for t in result.trajectories])
    lineage = np.arange(8)
    for step in reversed(range(4)):
        lineage = detail.ancestors[step][lineage]
        # Particles with the same ancestor share all tokens up to then.
        for i in range(8):
            for j in range(i):
                if lineage[i] == lineage[j]:
                    assert (final[i, : step + 1] == final[j, : step + 1]).all()
    for trajectory in result.trajectories:
        assert trajectory.logprobs.sum() == pytest.approx(math.log(toy.base[key(trajectory)]), abs=1e-5)
        assert trajectory.score == pytest.approx(toy.rewards()[key(trajectory)])
    assert result.cost.twist_calls == 8 * 4
    assert result.cost.reward_calls == 8
    assert result.cost.generated_tokens == 40


def test_systematic_resampling_keeps_means_and_moves_few():
    weights = np.array([0.05, 0.4, 0.3, 0.0, 0.25])
    counts = np.array([np.bincount(systematic(weights, u), minlength=5) for u in (np.arange(1000) + 0.5) / 1000])
    np.testing.assert_allclose(counts.mean(0), 5 * weights, atol=2e-3)
    assert (np.abs(counts - 5 * weights) < 1).all()
    for u in (0.0, 0.3, np.nextafter(1, 0)):
        chosen = systematic(weights, u)
        for entry in set(chosen.tolist()):
            assert chosen[entry] == entry


def test_effective_sizes_of_known_weights():
    found = effective_sizes(np.log([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 1e-300, 1e-300]]))
    np.testing.assert_allclose(found, [4, 2])


# --- power sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5], ids=["policy proposes", "sharpened proposes"])
def test_power_sampling_converges_to_the_power_of_the_policy(temperature: float):
    toy = Toy(6, vocab_size=3, horizon=3, prompts=1)
    alpha = 2.0
    exact = toy.normalised({a: p**alpha for a, p in toy.base.items()})
    params = dataclasses.replace(toy.params, temperature=temperature)
    result = PowerSampling(alpha, steps=15, chains=2500, max_batch=2500).sample(
        toy.policy, toy.prompts, toy.score, params=params
    )
    assert_distribution([key(t) for t in result.trajectories], exact)
    detail = result.details[0]
    assert detail.log_probs.shape == (2500, 16)
    assert 0.2 < detail.acceptance_rate < 1
    for trajectory, log_prob in zip(result.trajectories[:50], detail.log_probs[:50, -1], strict=True):
        assert log_prob == pytest.approx(math.log(toy.base[key(trajectory)]))
    assert result.cost.reward_calls == 2500


def test_power_one_accepts_everything_but_changes_of_length():
    toy = Toy(6, eos=False)
    result = PowerSampling(1.0, steps=4, chains=30).sample(toy.policy, toy.prompts, params=toy.params)
    assert all(detail.acceptance_rate == 1 for detail in result.details)
    assert result.trajectories[0].score is None
