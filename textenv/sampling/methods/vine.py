"""Monte-Carlo returns from any prefix: what an answer is worth at each of its tokens, without a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.protocols import GenerativePolicy
from textenv.sampling.methods.base import (
    Cost,
    EncodedPrompts,
    MethodResult,
    Prompts,
    prompt_groups,
    score_answers,
    start_sampling,
    stream_seed,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams, SettledParams
from textenv.sampling.sampler import trajectory_uniforms
from textenv.settings import PositiveInt, Settings
from textenv.trajectory import Trajectory


class VineDetail(NamedTuple):
    """Estimated values along one answer.

    Attributes:
        positions: Number of answer tokens before each state; the last one is the whole answer, shape ``(P,)``.
        returns: Scores of the continuations from each state, shape ``(P, rollouts)``; of the whole answer, its score.
        values: Means of ``returns``: unbiased for the state's value under the sampling distribution, ``(P,)``.
        standard_errors: Of ``values``; 0 for the whole answer, NaN with one rollout, ``(P,)``.
        advantages: ``values[i + 1] − values[i]``: of the tokens between, taken together, ``(P − 1,)``.
    """

    positions: NDArray[np.int64]
    returns: NDArray[np.float64]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    advantages: NDArray[np.float64]


@dataclass(frozen=True)
class Vine(Settings):
    """Draw one answer per prompt, then continuations from its prefixes.

    Attributes:
        rollouts: Continuations from each prefix.
        every: A prefix every so many tokens, the empty one included.
        max_batch: Continuations that are decoded side by side.

    Raises:
        ConfigError: If a setting is out of range.
    Source: Schulman et al. 2015, arXiv:1502.05477, section 5.2; Kazemnejad et al. 2024, arXiv:2410.01679.
    """

    rollouts: PositiveInt = 4
    every: PositiveInt = 1
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[VineDetail]:
        """One answer per prompt, valued at its prefixes; see :class:`textenv.sampling.methods.SamplingMethod`.

        Raises:
            ConfigError: If ``score`` is missing.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        cost = Cost()
        count = len(encoded.ids)
        answers: list[Trajectory] = []
        for group in prompt_groups(count, 1, self.max_batch):
            main = Rows(policy, encoded, group, params, cost, seed)
            every = np.arange(len(group))
            main.complete(every, trajectory_uniforms(stream_seed(seed, 0), group, params.max_new_tokens))
            answers += [main.trajectory(row, source="vine", sample_index=0) for row in every.tolist()]
        scores = score_answers(score, answers, cost, "vine")
        positions = [np.arange(0, len(answer), self.every) for answer in answers]
        owners = np.repeat(np.arange(count), [len(at) for at in positions])
        places = np.concatenate(positions)
        prefixes = [answers[i].token_ids[:place] for i, place in zip(owners.tolist(), places.tolist(), strict=True)]
        numbers = owners * params.max_new_tokens + places
        returns = _continue(policy, encoded, owners, prefixes, numbers, score, self, params, seed, cost)
        details = []
        for i, at in enumerate(positions):
            returns_here = np.vstack([returns[owners == i], np.full(self.rollouts, scores[i])])
            values = returns_here.mean(1)
            with np.errstate(invalid="ignore", divide="ignore"):
                errors = returns_here.std(1) / np.sqrt(np.float64(self.rollouts - 1))
            errors[-1] = 0.0
            details.append(VineDetail(np.append(at, len(answers[i])), returns_here, values, errors, np.diff(values)))
        return MethodResult(answers, np.arange(count), details, cost)


def prefix_returns(
    policy: GenerativePolicy,
    prompts: Prompts,
    prefixes: Sequence[Sequence[int]],
    score: Any,
    *,
    rollouts: int = 4,
    seed: int = 0,
    params: SamplingParams | None = None,
) -> tuple[NDArray[np.float64], Cost]:
    """Scores of continuations from given prefixes.

    Args:
        policy: Continues.
        prompts: One per prefix.
        prefixes: Answer tokens so far, perhaps none; unfinished.
        score: Reward function.
        rollouts: Continuations of each prefix.
        seed: The continuations of prefix number i depend on the seed and i alone.
        params: How tokens are drawn; ``max_new_tokens`` counts the prefix too.

    Returns:
        Scores ``(len(prefixes), rollouts)`` and what they cost.

    Raises:
        DataError: If prompts and prefixes differ in number, or a prefix has ended.
        RewardError: If the reward function fails.
    """
    params, encoded = start_sampling(policy, prompts, params)
    if len(prefixes) != len(encoded.ids):
        raise DataError(f"there are {len(encoded.ids)} prompts but {len(prefixes)} prefixes; give one for each")
    numbers = np.arange(len(prefixes))
    tokens = [np.asarray(prefix, np.int64) for prefix in prefixes]
    cost = Cost()
    prefix_scores = _continue(policy, encoded, numbers, tokens, numbers, score, Vine(rollouts), params, seed, cost)
    return prefix_scores, cost


def _continue(
    policy: GenerativePolicy,
    prompts: EncodedPrompts,
    owners: NDArray[np.int64],
    prefixes: Sequence[NDArray[np.int64]],
    numbers: NDArray[np.int64],
    score: Any,
    config: Vine,
    params: SettledParams,
    seed: int,
    cost: Cost,
) -> NDArray[np.float64]:
    """Scores of continuations, ``(prefixes, rollouts)``.

    Args:
        policy: Continues.
        prompts: All prompts.
        owners: Prompt of each prefix.
        prefixes: Answer tokens so far.
        numbers: Decides the random numbers of each prefix.
        score: Reward function.
        config: Rollouts and batch size.
        params: How tokens are drawn.
        seed: Of the draws.
        cost: Is added to.
    """
    answers: list[Trajectory] = []
    for group in prompt_groups(len(prefixes), config.rollouts, config.max_batch):
        which = np.repeat(group, config.rollouts)
        rows = Rows(policy, prompts, owners[which], params, cost, seed)
        for row, number in enumerate(which.tolist()):
            rows.place(row, prefixes[number])
        streams = (numbers[group][:, None] * config.rollouts + np.arange(config.rollouts)).ravel()
        rows.complete(np.arange(len(rows)), trajectory_uniforms(stream_seed(seed, 1), streams, params.max_new_tokens))
        answers += [rows.trajectory(row, source="vine") for row in range(len(rows))]
    return score_answers(score, answers, cost, "vine").reshape(-1, config.rollouts)
