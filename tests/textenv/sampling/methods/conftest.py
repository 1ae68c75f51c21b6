"""Toy policies whose every answer is known, and what is exactly true of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from textenv.envs.toy import answer_distribution
from textenv.envs.toy_mdp import ToyMDP
from textenv.envs.toy_policy import ToyGenerativePolicy
from textenv.sampling import SamplingParams
from textenv.trajectories import Trajectory

Answer = tuple[int, tuple[int, ...]]


class Toy:
    """A random toy problem with its policy."""

    def __init__(self, seed: int = 0, *, vocab_size: int = 3, horizon: int = 3, prompts: int = 2, eos: bool = True):
        self.mdp = ToyMDP.random(np.random.default_rng(seed), vocab_size, horizon, prompts, has_eos=eos)
        self.policy = ToyGenerativePolicy(self.mdp)
        self.prompts = self.policy.prompts
        self.params = SamplingParams(max_new_tokens=horizon)
        self.base = answer_distribution(self.mdp, self.mdp.ref_probs)

    def score(self, prompts: list[str], responses: list[str]) -> list[float]:
        return self.policy.reward(prompts, responses)

    def rewards(self) -> dict[Answer, float]:
        return {answer: sum(self.mdp.token_rewards(*answer)) for answer in self.base}

    def of_prompt(self, prompt: int) -> list[Answer]:
        return [answer for answer in self.base if answer[0] == prompt]

    def normalised(self, weights: dict[Answer, float]) -> dict[Answer, float]:
        """Weights of answers, normalised prompt by prompt."""
        totals: dict[int, float] = dict.fromkeys(range(self.mdp.num_prompts), 0.0)
        for answer, weight in weights.items():
            totals[answer[0]] += weight
        return {answer: weight / totals[answer[0]] for answer, weight in weights.items()}


def key(trajectory: Trajectory) -> Answer:
    return int(trajectory.prompt_ids[0]) - 1, tuple(trajectory.token_ids.tolist())


def assert_distribution(answers: Sequence[Answer], exact: dict[Answer, float]) -> None:
    """A chi-square test of answers to one prompt; rare ones are pooled."""
    counts = Counter(answers)
    assert all(exact.get(answer, 0) > 0 for answer in counts)
    prompt = answers[0][0]
    expected = {answer: p * len(answers) for answer, p in exact.items() if answer[0] == prompt}
    common = [answer for answer, e in expected.items() if e >= 5]
    seen = [float(counts[answer]) for answer in common]
    hoped = [expected[answer] for answer in common]
    rest = len(answers) - sum(hoped)
    if rest > 1:
        seen.append(len(answers) - sum(seen))
        hoped.append(rest)
    assert chisquare(seen, np.array(hoped) * sum(seen) / sum(hoped)).pvalue > 1e-3


def assert_mean(values: NDArray[np.float64] | Sequence[float], exact: float, sigmas: float = 4.0) -> None:
    """The mean of independent estimates lies within its standard errors of the truth."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - exact) < sigmas * error + 1e-12, (values.mean(), exact, error)


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()
