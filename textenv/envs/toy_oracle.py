"""Exact answers for :class:`ToyMDP` problems, by enumeration in float64.

Everything an algorithm estimates on a toy problem can be compared with these: optimal policy and values under
KL-regularisation, values and divergence of any policy, the exact policy gradient, and the exact distribution over
answers of any sampler. Policies are tables ``(S, V)`` of probabilities. Divergences are in nats per answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.envs.toy_mdp import ENDED, ToyMDP
from textenv.errors import ConfigError, ShapeError

Table = NDArray[np.float64]
Answer = tuple[int, tuple[int, ...]]
"""Prompt index and tokens of a complete answer."""


class ToySolution(NamedTuple):
    """A policy on a toy problem and what is exactly true of it.

    The objective is ``J = E[Σ γ^t (r - β log(π/π_ref))]``, the mean over prompts.

    Attributes:
        policy: Probabilities, shape ``(S, V)``.
        values: ``V(s)``: objective from a state on, its own KL term included, shape ``(S,)``.
        q_values: ``Q(s, a) = r + γ V(s')``: without the KL term of the action itself, shape ``(S, V)``.
        objective: ``J``.
        expected_reward: ``E[Σ γ^t r]``.
        kl: ``E[Σ log(π/π_ref)]``, undiscounted, in nats per answer.
        occupancy: Probability that an answer passes through each state, the prompt drawn uniformly, shape ``(S,)``.
    """

    policy: Table
    values: NDArray[np.float64]
    q_values: Table
    objective: float
    expected_reward: float
    kl: float
    occupancy: NDArray[np.float64]


def solve(mdp: ToyMDP, beta: float, *, gamma: float = 1.0) -> ToySolution:
    """The optimal policy ``π*(a|s) ∝ π_ref(a|s) exp(Q*(s, a) / β)``, with everything that is true of it.

    Args:
        mdp: The problem.
        beta: Weight of the KL term, score units per nat; at 0 the best action (the first of equals) is taken.
        gamma: Discount per token.

    Raises:
        ConfigError: If beta is negative.
    Source: soft Bellman equations; Levine 2018, arXiv:1805.00909, section 2, with π_ref as the prior.
    """
    if beta < 0:
        raise ConfigError(f"beta must be ≥ 0, got {beta}")
    values, q_values = np.zeros(mdp.num_states), np.zeros_like(mdp.rewards)
    policy = np.zeros_like(mdp.rewards)
    for length in reversed(range(mdp.horizon)):
        states = mdp.level(length)
        q = q_values[states] = mdp.rewards[states] + gamma * _next_values(mdp, values, states)
        if beta == 0:
            allowed = np.where(mdp.ref_probs[states] > 0, q, -np.inf)
            policy[states, allowed.argmax(axis=1)] = 1.0
            values[states] = allowed.max(axis=1)
        else:
            with np.errstate(divide="ignore"):  # log 0 = -inf is what an excluded token must have
                weights = np.log(mdp.ref_probs[states]) + q / beta
            top = weights.max(axis=1, keepdims=True)
            log_sum = top + np.log(np.exp(weights - top).sum(axis=1, keepdims=True))
            policy[states] = np.exp(weights - log_sum)
            values[states] = beta * log_sum[:, 0]
    return evaluate(mdp, policy, beta, gamma=gamma)


def evaluate(mdp: ToyMDP, policy: Table, beta: float = 0.0, *, gamma: float = 1.0) -> ToySolution:
    """What is exactly true of a policy.

    Args:
        mdp: The problem.
        policy: Probabilities, shape ``(S, V)``.
        beta: Weight of the KL term.
        gamma: Discount per token.

    Raises:
        ShapeError: If the table has the wrong shape or a row does not sum to 1.
    """
    _check_policy(mdp, policy)
    ratio = _log_ratio(policy, mdp.ref_probs)
    kl_here = (policy * ratio).sum(axis=1)
    penalty = beta * kl_here if beta else np.zeros_like(kl_here)
    values, q_values = np.zeros(mdp.num_states), np.zeros_like(mdp.rewards)
    rewards_only = np.zeros(mdp.num_states)
    for length in reversed(range(mdp.horizon)):
        states = mdp.level(length)
        q_values[states] = mdp.rewards[states] + gamma * _next_values(mdp, values, states)
        with np.errstate(invalid="ignore"):  # 0 · −inf where an action is never taken
            taken = np.where(policy[states] > 0, policy[states] * q_values[states], 0.0)
        values[states] = taken.sum(axis=1) - penalty[states]
        paid = mdp.rewards[states] + gamma * _next_values(mdp, rewards_only, states)
        rewards_only[states] = (policy[states] * paid).sum(axis=1)
    occupancy = state_occupancy(mdp, policy)
    return ToySolution(
        policy=policy,
        values=values,
        q_values=q_values,
        objective=float(values[mdp.start_states].mean()),
        expected_reward=float(rewards_only[mdp.start_states].mean()),
        kl=float((occupancy[occupancy > 0] * kl_here[occupancy > 0]).sum()),
        occupancy=occupancy,
    )


def state_occupancy(mdp: ToyMDP, policy: Table, *, gamma: float = 1.0) -> NDArray[np.float64]:
    """``Σ_t γ^t P(s_t = s)`` with the prompt drawn uniformly, shape ``(S,)``; at gamma 1 a probability per state."""
    occupancy = np.zeros(mdp.num_states)
    occupancy[mdp.start_states] = 1.0 / mdp.num_prompts
    for length in range(mdp.horizon - 1):
        states = mdp.level(length)
        following = mdp.next_states[states]
        flow = gamma * occupancy[states, None] * policy[states]
        goes_on = following != ENDED
        occupancy[following[goes_on]] = flow[goes_on]  # every state has one predecessor
    return occupancy


def softmax_policy(logits: Table) -> Table:
    """Row-wise softmax, shape ``(S, V)``."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def policy_gradient(mdp: ToyMDP, logits: Table, beta: float = 0.0, *, gamma: float = 1.0) -> Table:
    """Exact gradient of the objective ``J`` with respect to a table of logits, shape ``(S, V)``.

    ``∂J/∂z(s, a) = d(s) π(a|s) [Q(s, a) - β log(π/π_ref)(a|s) - V(s)]`` with the discounted occupancy ``d``.

    Args:
        mdp: The problem.
        logits: Logits of the policy; it is their row-wise softmax.
        beta: Weight of the KL term.
        gamma: Discount per token.

    Raises:
        ShapeError: If the table has the wrong shape.
    Source: Sutton et al. 2000, policy gradient theorem, for a tabular softmax policy.
    """
    policy = softmax_policy(np.asarray(logits, dtype=np.float64))
    truth = evaluate(mdp, policy, beta, gamma=gamma)
    taken = truth.q_values - truth.values[:, None]
    if beta:
        taken = taken - beta * _log_ratio(policy, mdp.ref_probs)
    return state_occupancy(mdp, policy, gamma=gamma)[:, None] * policy * taken


class TablePolicy:
    """A table as a function of tokens: what wrappers and samplers call (``textenv.wrappers.NextTokenLogprobs``).

    Args:
        mdp: The problem.
        table: Probabilities, shape ``(S, V)``.

    Raises:
        ShapeError: If the table has the wrong shape or a row does not sum to 1.
    """

    def __init__(self, mdp: ToyMDP, table: Table) -> None:
        _check_policy(mdp, table)
        self.mdp = mdp
        self.table = table

    def __call__(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Table:
        """Log-probabilities of the next token, shape ``(k, V)``; 0 where an answer has ended."""
        logprobs = np.zeros((len(tokens), self.mdp.vocab_size))
        for i, (row, length) in enumerate(zip(tokens, lengths, strict=True)):
            answered = row[1:length].tolist()
            ended = len(answered) >= self.mdp.horizon or (self.mdp.has_eos and 0 in answered)
            if not ended:
                with np.errstate(divide="ignore"):
                    logprobs[i] = np.log(self.table[self.mdp.state_index(int(row[0]) - 1, answered)])
        return logprobs


# --- distributions over whole answers ---------------------------------------------------------------------------------


def answer_distribution(mdp: ToyMDP, policy: Table) -> dict[Answer, float]:
    """Probability of every answer that can occur, given its prompt; they sum to 1 for each prompt.

    Raises:
        ShapeError: If the table has the wrong shape or a row does not sum to 1.
    """
    _check_policy(mdp, policy)
    reached = state_occupancy(mdp, policy) * mdp.num_prompts
    probabilities: dict[Answer, float] = {}
    for state, (prompt, prefix) in enumerate(mdp.states()):
        for token in np.flatnonzero(mdp.next_states[state] == ENDED).tolist():
            probability = float(reached[state] * policy[state, token])
            if probability > 0:
                probabilities[prompt, (*prefix, token)] = probability
    return probabilities


def sampler_distribution(
    mdp: ToyMDP, policy: Table, transform: Callable[[NDArray[np.float64], Sequence[int]], NDArray[np.float64]]
) -> dict[Answer, float]:
    """Exact distribution over answers of any token-by-token sampler.

    Args:
        mdp: The problem.
        policy: The policy that the sampler starts from, shape ``(S, V)``.
        transform: The sampler's next-token probabilities, from the policy's ``(V,)`` and the tokens so far
            (temperature, top-k, top-p, penalties, masks, …).

    Raises:
        ShapeError: If the transform returns no distribution.
    """
    table = np.stack([transform(policy[i].copy(), prefix) for i, (_, prefix) in enumerate(mdp.states())])
    return answer_distribution(mdp, table)


def best_of_n_distribution(mdp: ToyMDP, policy: Table, n: int) -> dict[Answer, float]:
    """Exact distribution of the best of n independent answers by reward; the first of equals is kept.

    Raises:
        ConfigError: If n is below 1.
    """
    if n < 1:
        raise ConfigError(f"n must be ≥ 1, got {n}")
    result: dict[Answer, float] = {}
    base = answer_distribution(mdp, policy)
    for prompt in range(mdp.num_prompts):
        scored = [(sum(mdp.token_rewards(*answer)), answer) for answer in base if answer[0] == prompt]
        below = 0.0
        for score in sorted({score for score, _ in scored}):
            equals = [answer for other, answer in scored if other == score]
            here = sum(base[answer] for answer in equals)
            chosen = min(1.0, below + here) ** n - below**n
            result.update({answer: chosen * base[answer] / here for answer in equals})
            below = min(1.0, below + here)
    return result


def answer_kl(first: dict[Answer, float], second: dict[Answer, float]) -> float:
    """KL(first ‖ second) over answers in nats, the mean over prompts; inf where the support does not fit."""
    prompts = {prompt for prompt, _ in first}
    total = 0.0
    for answer, probability in first.items():
        if probability > 0:
            other = second.get(answer, 0.0)
            total += probability * np.log(probability / other) if other > 0 else np.inf
    return float(total / len(prompts))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _next_values(mdp: ToyMDP, values: NDArray[np.float64], states: NDArray[np.int64]) -> Table:
    following = mdp.next_states[states]
    return np.where(following == ENDED, 0.0, values[following])


def _log_ratio(policy: Table, reference: Table) -> Table:
    """log(π/π_ref), 0 where π is 0 and inf where only π_ref is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(policy > 0, np.log(policy) - np.log(reference), 0.0)


def _check_policy(mdp: ToyMDP, policy: Table) -> None:
    if policy.shape != mdp.rewards.shape:
        raise ShapeError(f"the policy has shape {policy.shape}, expected {mdp.rewards.shape} (states, tokens)")
    sums = policy.sum(axis=1)
    if (policy < 0).any() or not np.allclose(sums, 1.0, atol=1e-9):
        worst = int(np.abs(sums - 1.0).argmax())
        raise ShapeError(f"row {worst} of the policy is no distribution: it sums to {sums[worst]}")
