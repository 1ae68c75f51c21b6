"""Power sampling: answers from the sharpened policy ``p(answer) ** alpha``, by Metropolis-Hastings over suffixes."""

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
    check_full_support,
    prompt_groups,
    score_answers,
    start_sampling,
    stream_seed,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams, SettledParams
from textenv.sampling.sampler import trajectory_uniforms
from textenv.settings import NonNegativeInt, PositiveFloat, PositiveInt, Settings
from textenv.trajectory import Trajectory


class PowerDetail(NamedTuple):
    """What power sampling knows about a prompt.

    Attributes:
        log_probs: log π(answer) of each chain's state after each step (the first entry before any), nats,
            shape ``(chains, steps + 1)``.
        accepted: Proposals that were accepted, bool, shape ``(chains, steps)``.
    """

    log_probs: NDArray[np.float64]
    accepted: NDArray[np.bool_]

    @property
    def acceptance_rate(self) -> float:
        """Share of accepted proposals; NaN without steps."""
        return float(self.accepted.mean()) if self.accepted.size else float("nan")


@dataclass(frozen=True)
class PowerSampling(Settings):
    """Markov chains over whole answers whose stationary distribution is the policy's to the power alpha.

    That is not sampling at temperature 1 / alpha, which sharpens each token by itself; it prefers tokens whose
    continuations are probable. A step keeps a random beginning of the answer, draws the rest anew and accepts by the
    exact Metropolis-Hastings ratio. ``params`` draws first answers and proposals; temperature 1 / alpha is a good
    choice.

    Attributes:
        alpha: Power; 1 leaves the policy as it is.
        steps: Proposals per chain.
        chains: Independent chains, and answers, per prompt.
        max_batch: Chains that run side by side.

    Raises:
        ConfigError: If a setting is out of range.
    Source: Karan and Du 2025, arXiv:2510.14901; their algorithm grows the answer block by block, this one runs on
    whole answers.
    """

    alpha: PositiveFloat = 4.0
    steps: NonNegativeInt = 10
    chains: PositiveInt = 1
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[PowerDetail]:
        """The last state of each chain; see :class:`textenv.sampling.methods.SamplingMethod`.

        ``score`` may be missing: then the answers are not scored.

        Raises:
            ConfigError: If the proposal leaves out tokens.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params = params or SamplingParams(temperature=1.0 / self.alpha)
        params, encoded = start_sampling(policy, prompts, params)
        check_full_support(params, "power sampling")
        cost = Cost()
        trajectories: list[Trajectory] = []
        details: list[PowerDetail] = []
        for group in prompt_groups(len(encoded.ids), self.chains, self.max_batch):
            of_group, answers = self._run(policy, encoded, group, params, seed, cost)
            details += of_group
            trajectories += answers
        if score is not None:
            score_answers(score, trajectories, cost, "power sampling")
        indices = np.repeat(np.arange(len(details)), self.chains)
        return MethodResult(trajectories, indices, details, cost)

    def _run(
        self,
        policy: GenerativePolicy,
        prompts: EncodedPrompts,
        group: NDArray[np.int64],
        params: SettledParams,
        seed: int,
        cost: Cost,
    ) -> tuple[list[PowerDetail], list[Trajectory]]:
        """All chains of some prompts, side by side."""
        rows = Rows(policy, prompts, np.repeat(group, self.chains), params, cost, seed)
        every = np.arange(len(rows))
        numbers = (group[:, None] * self.chains + np.arange(self.chains)).ravel()
        width = params.max_new_tokens
        rows.complete(every, trajectory_uniforms(stream_seed(seed, 0), numbers, width))
        log_probs = [rows.logprobs.sum(1)]
        accepted = []
        for step in range(self.steps):
            # 0: where to cut; 1: whether to accept; the rest: the new suffix, by position.
            uniforms = trajectory_uniforms(stream_seed(seed, 1, step), numbers, width + 2)
            old_lengths = rows.answered
            old = rows.tokens.copy(), rows.lengths.copy(), rows.behaviour.copy(), rows.logprobs.copy()
            cut = np.minimum((uniforms[:, 0] * old_lengths).astype(np.int64), old_lengths - 1)
            tail = np.arange(width) >= cut[:, None]
            old_proposal = (old[2] * tail).sum(1)
            rows.lengths = rows.start + cut
            rows.behaviour[tail] = rows.logprobs[tail] = 0.0
            rows.complete(every, uniforms[:, 2:])
            # The cut is one of `length` places, so its probability differs between an answer and its successor.
            log_ratio = (
                self.alpha * (rows.logprobs.sum(1) - old[3].sum(1))
                + old_proposal
                - (rows.behaviour * tail).sum(1)
                + np.log(old_lengths)
                - np.log(rows.answered)
            )
            with np.errstate(divide="ignore"):  # a uniform of 0 accepts
                keep = np.log(uniforms[:, 1]) < log_ratio
            for now, before in zip((rows.tokens, rows.lengths, rows.behaviour, rows.logprobs), old, strict=True):
                now[~keep] = before[~keep]
            log_probs.append(rows.logprobs.sum(1))
            accepted.append(keep)
        traces = np.array(log_probs).T.reshape(len(group), self.chains, -1)
        kept = np.array(accepted, np.bool_).T.reshape(len(group), self.chains, -1)
        details = [PowerDetail(trace, keep) for trace, keep in zip(traces, kept, strict=True)]
        return details, [
            rows.trajectory(row, source="power", sample_index=int(row % self.chains)) for row in every.tolist()
        ]
