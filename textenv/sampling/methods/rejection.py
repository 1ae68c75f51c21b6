"""Rejection sampling: the policy conditioned on a score at least as high as a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


class RejectionDetail(NamedTuple):
    """What rejection sampling knows about a prompt.

    Attributes:
        accepted: Whether the answer reaches the threshold; otherwise it is the best of ``max_tries``, and not a
            draw from the target.
        tries: Answers up to and including the first accepted one (all of them where none was).
        scores: Of all answers that were drawn in whole rounds, in order, at least ``tries``.
        acceptance_rate: Share of the first round that reaches the threshold: an unbiased estimate of the probability
            that an answer does, coarse for one prompt and made to be averaged over prompts. Later rounds are drawn only
            after nothing but failures, so the share of all of ``scores`` would be too high.
    """

    accepted: bool
    tries: int
    scores: NDArray[np.float64]
    acceptance_rate: float


@dataclass(frozen=True)
class RejectionSampling(Settings):
    """Draw answers until one scores at least the threshold: a draw from the policy given that it does.

    Attributes:
        threshold: Score that is enough.
        max_tries: Answers per prompt before it gives up.
        round_size: Answers per prompt that are drawn and scored together; larger ones waste more and wait less.
        max_batch: Answers that are decoded side by side.

    Raises:
        ConfigError: If a setting is out of range.
    """

    threshold: float = 0.0
    max_tries: PositiveInt = 64
    round_size: PositiveInt = 4
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[RejectionDetail]:
        """One answer per prompt; see :class:`textenv.sampling.methods.SamplingMethod`.

        Raises:
            ConfigError: If ``score`` is missing.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        cost = Cost()
        drawn: list[list[Trajectory]] = [[] for _ in encoded.ids]
        scored: list[list[float]] = [[] for _ in encoded.ids]
        waiting = list(range(len(drawn)))
        tries = 0
        while waiting and tries < self.max_tries:
            size = min(self.round_size, self.max_tries - tries)
            answers: list[Trajectory] = []
            for places in prompt_groups(len(waiting), size, self.max_batch):
                group = [waiting[place] for place in places]
                answers += self._round(policy, encoded, group, range(tries, tries + size), params, seed, cost)
            scores = score_answers(score, answers, cost, "rejection sampling").reshape(-1, size)
            for place, i in enumerate(waiting):
                drawn[i] += answers[place * size : (place + 1) * size]
                scored[i] += scores[place].tolist()
            waiting = [i for i in waiting if max(scored[i]) < self.threshold]
            tries += size
        details = [self._detail(np.array(scores)) for scores in scored]
        chosen = [
            answers[detail.tries - 1] if detail.accepted else answers[int(detail.scores.argmax())]
            for answers, detail in zip(drawn, details, strict=True)
        ]
        return MethodResult(chosen, np.arange(len(chosen)), details, cost)

    def _round(
        self,
        policy: GenerativePolicy,
        prompts: EncodedPrompts,
        waiting: list[int],
        numbers: range,
        params: SettledParams,
        seed: int,
        cost: Cost,
    ) -> list[Trajectory]:
        """Tries with these numbers for each of some prompts that wait."""
        rows = Rows(policy, prompts, np.repeat(waiting, len(numbers)), params, cost, seed)
        streams = np.concatenate([i * self.max_tries + np.array(numbers) for i in waiting])
        rows.complete(np.arange(len(rows)), trajectory_uniforms(stream_seed(seed, 0), streams, params.max_new_tokens))
        numbered = np.tile(np.array(numbers), len(waiting))
        return [rows.trajectory(row, source="rejection", sample_index=int(numbered[row])) for row in range(len(rows))]

    def _detail(self, scores: NDArray[np.float64]) -> RejectionDetail:
        good = scores >= self.threshold
        accepted = bool(good.any())
        return RejectionDetail(
            accepted, int(good.argmax()) + 1 if accepted else len(scores), scores, float(good[: self.round_size].mean())
        )
