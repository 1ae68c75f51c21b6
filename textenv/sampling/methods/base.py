"""What all sampling methods share: their interface, what they report, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError, DataError
from textenv.protocols import GenerativePolicy
from textenv.rewards import call_reward
from textenv.sampling.generation import EncodedPrompts, Prompts, as_prompts, encode_prompts
from textenv.sampling.params import SamplingParams, SettledParams, settle
from textenv.trajectory import Trajectory

Detail = TypeVar("Detail")


@dataclass
class Cost:
    """What a method spent, so that methods can be compared at equal cost.

    Attributes:
        generated_tokens: Tokens that were drawn (or, by beam search, kept), also those thrown away later.
        fed_tokens: Tokens that the model had to read with a KV cache per sequence: each distinct prompt once, then
            every token that another one was drawn after, and again what was forgotten in between.
        reward_calls: Complete answers that the reward function judged, however many at once.
        twist_calls: Unfinished answers that a twist function judged.
    """

    generated_tokens: int = 0
    fed_tokens: int = 0
    reward_calls: int = 0
    twist_calls: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class MethodResult(Generic[Detail]):
    """What a sampling method found.

    Attributes:
        trajectories: The answers it gives, prompt by prompt, with their scores. Their ``behaviour_logprobs`` are those
            of the tokens' draws; that some answers were chosen among others is not in them.
        prompt_indices: Prompt that each of them answers, int64, shape as many.
        details: What else it knows about each prompt; the type is the method's own.
        cost: What all prompts together cost.
    """

    trajectories: list[Trajectory]
    prompt_indices: NDArray[np.int64]
    details: list[Detail]
    cost: Cost = field(default_factory=Cost)

    def answers_to(self, prompt_index: int) -> list[Trajectory]:
        """The answers to one prompt."""
        return [t for t, i in zip(self.trajectories, self.prompt_indices, strict=True) if i == prompt_index]


class SamplingMethod(Protocol):
    """A way to get answers out of a policy.

    The classes in this package are their own configurations: frozen dataclasses that can be written down and compared.
    """

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[Any]:
        """Answer prompts.

        Args:
            policy: Samples.
            prompts: Texts, token ids, or conversations.
            score: Reward function of prompts and responses, or reward model.
            seed: Everything random about prompt number i depends on the seed and i alone.
            params: How tokens are drawn; None draws from the policy itself.
        """
        ...


def start_sampling(
    policy: GenerativePolicy, prompts: Prompts, params: SamplingParams | None
) -> tuple[SettledParams, EncodedPrompts]:
    """Settings in which nothing is open, and the prompts' texts and token ids.

    Raises:
        DataError: If there is no prompt, one is empty, or one leaves no room in the model's context; the message names
            it.
        ConfigError: If the settings contradict the policy's answer format.
    """
    settled, _ = settle(policy, params)
    listed = as_prompts(prompts)
    if not len(listed):
        raise DataError("there are no prompts; give at least one")
    return settled, encode_prompts(policy, listed, [settled.max_new_tokens] * len(listed))


def score_answers(score: Any, trajectories: Sequence[Trajectory], cost: Cost, method: str) -> NDArray[np.float64]:
    """Score trajectories in one reward call, write the scores into them and count them.

    Raises:
        ConfigError: If there is no reward function.
        RewardError: If it fails.
    """
    if score is None:
        raise ConfigError(f"{method} needs `score`: a function of prompts and responses, or a reward model")
    scores = call_reward(score, [t.prompt for t in trajectories], [t.response for t in trajectories])
    cost.reward_calls += len(scores)
    for trajectory, value in zip(trajectories, scores, strict=True):
        trajectory.score = float(value)
    return scores


def check_full_support(params: SamplingParams, method: str) -> None:
    """Refuse draws that leave out tokens, where a method weighs by ratios of probabilities.

    Raises:
        ConfigError: If they do.
    """
    if not params.full_support:
        raise ConfigError(
            f"{method} weighs draws by ratios of probabilities, so every token of the policy must be possible: leave "
            "out `top_k`, `top_p`, `min_p`, `typical_p`, masks and greedy choices; temperature and penalty may stay"
        )


def prompt_groups(count: int, rows_per_prompt: int, max_batch: int) -> list[NDArray[np.int64]]:
    """Prompt numbers 0 … count − 1 in groups that need at most ``max_batch`` rows (or one prompt's)."""
    size = max(1, max_batch // rows_per_prompt)
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def stream_seed(seed: int, *key: int) -> int:
    """A seed of 64 bits for one of a method's random streams."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, *key]).generate_state(1, np.uint64)[0])
