"""Toy problems solved the slow way, by sums over whole answers; shares no code with the oracles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from textenv.envs.toy import ToyMDP

Answer = tuple[int, tuple[int, ...]]


def complete_answers(mdp: ToyMDP, prefix: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every complete answer that begins with a prefix, by the rules alone: EOS ends, and so does the horizon."""
    if (mdp.has_eos and prefix and prefix[-1] == 0) or len(prefix) == mdp.horizon:
        yield prefix
        return
    for token in range(mdp.vocab_size):
        yield from complete_answers(mdp, (*prefix, token))


def row_numbers(mdp: ToyMDP) -> dict[Answer, int]:
    """Table row of each prefix that goes on: prompt by prompt, short prefixes first, then in token order."""
    rows: dict[Answer, int] = {}
    for prompt in range(mdp.num_prompts):
        prefixes: list[tuple[int, ...]] = [()]
        for _ in range(mdp.horizon):
            longer = []
            for prefix in prefixes:
                rows[prompt, prefix] = len(rows)
                longer += [(*prefix, t) for t in range(mdp.vocab_size) if not (mdp.has_eos and t == 0)]
            prefixes = longer
    return rows


def log_probability(mdp: ToyMDP, table: np.ndarray, prompt: int, answer: tuple[int, ...]) -> float:
    rows = row_numbers(mdp)
    total = 0.0
    for i, token in enumerate(answer):
        probability = table[rows[prompt, answer[:i]], token]
        total += math.log(probability) if probability > 0 else -math.inf
    return total


def total_reward(mdp: ToyMDP, prompt: int, answer: tuple[int, ...], gamma: float = 1.0) -> float:
    rows = row_numbers(mdp)
    return sum(gamma**i * mdp.rewards[rows[prompt, answer[:i]], token] for i, token in enumerate(answer))


def optimal_answers(mdp: ToyMDP, beta: float) -> dict[Answer, float]:
    """π*(y|x) = π_ref(y|x) exp(R/β) / Z, normalised over whole answers."""
    found: dict[Answer, float] = {}
    for prompt in range(mdp.num_prompts):
        answers = list(complete_answers(mdp))
        weights = [
            math.exp(log_probability(mdp, mdp.ref_probs, prompt, a) + total_reward(mdp, prompt, a) / beta)
            for a in answers
        ]
        found.update({(prompt, a): w / sum(weights) for a, w in zip(answers, weights, strict=True)})
    return found


def optimal_value(mdp: ToyMDP, beta: float) -> float:
    """J* = β log Z, the mean over prompts."""
    totals = []
    for prompt in range(mdp.num_prompts):
        z = sum(
            math.exp(log_probability(mdp, mdp.ref_probs, prompt, a) + total_reward(mdp, prompt, a) / beta)
            for a in complete_answers(mdp)
        )
        totals.append(beta * math.log(z))
    return sum(totals) / len(totals)


def objective(mdp: ToyMDP, policy: np.ndarray, beta: float, gamma: float = 1.0) -> float:
    """E[Σ γ^t (r - β log π/π_ref)] as a sum over whole answers."""
    rows = row_numbers(mdp)
    total = 0.0
    for prompt in range(mdp.num_prompts):
        for answer in complete_answers(mdp):
            log_p = log_probability(mdp, policy, prompt, answer)
            if log_p == -math.inf:
                continue
            value = total_reward(mdp, prompt, answer, gamma)
            for i, token in enumerate(answer):
                row = rows[prompt, answer[:i]]
                value -= beta * gamma**i * math.log(policy[row, token] / mdp.ref_probs[row, token])
            total += math.exp(log_p) * value
    return total / mdp.num_prompts
