"""Beam search and diverse (group) beam search: the most probable answers, found approximately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import ConfigError
from textenv.protocols import GenerativePolicy
from textenv.sampling.generation import may_end
from textenv.sampling.methods.base import (
    Cost,
    MethodResult,
    Prompts,
    prompt_groups,
    score_answers,
    start_sampling,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams
from textenv.sampling.processors import token_mask
from textenv.settings import NonNegativeFloat, PositiveInt, Settings
from textenv.trajectory import Trajectory


class BeamDetail(NamedTuple):
    """What beam search knows about a prompt.

    Attributes:
        log_probs: log π(answer) of the returned answers, nats, shape ``(k,)``.
        beam_scores: The same divided by ``length ** length_penalty``; decides the order, shape ``(k,)``.
        groups: Group that each was found by, shape ``(k,)``.
    """

    log_probs: NDArray[np.float64]
    beam_scores: NDArray[np.float64]
    groups: NDArray[np.int64]


class _Hypothesis(NamedTuple):
    beam_score: float
    log_prob: float
    group: int
    trajectory: Trajectory


@dataclass(frozen=True)
class BeamSearch(Settings):
    """Keep the most probable unfinished answers, extend them by every token, keep the best again.

    With ``num_groups`` above 1 the beams are divided into groups that go one after the other; a group's choice of a
    token is made less attractive for those after it (diverse beam search). The penalty counts in the choice only, never
    in the log-probs that are accumulated and reported.

    Differences from transformers' ``generate(num_beams=…)``: log-probs of unpenalised answers and sums in float64;
    the search goes on until no unfinished beam can become better than the worst finished one, as with its
    ``early_stopping="never"``. The score, ``log π / length ** length_penalty`` with the end-of-text token counted, is
    the same.

    Attributes:
        num_beams: Unfinished answers that are kept for each prompt, all groups together.
        num_groups: Groups of diverse beam search; divides ``num_beams``.
        diversity_penalty: Nats that a token loses for each beam of earlier groups that took it in this step.
        length_penalty: Exponent of the length; 0 ranks by probability, above 0 favours long answers.
        num_return: Answers per prompt, at most ``num_beams``.
        max_batch: Beams that are decoded side by side.

    Raises:
        ConfigError: If a setting is out of range.
    Source: Vijayakumar et al. 2016, arXiv:1610.02424, with the Hamming diversity of its section 5.
    """

    num_beams: PositiveInt = 4
    num_groups: PositiveInt = 1
    diversity_penalty: NonNegativeFloat = 0.0
    length_penalty: float = 0.0
    num_return: PositiveInt = 1
    max_batch: PositiveInt = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_beams % self.num_groups:
            raise ConfigError(f"`num_groups` = {self.num_groups} must divide `num_beams` = {self.num_beams}")
        if self.num_return > self.num_beams:
            raise ConfigError(f"`num_return` = {self.num_return} must not exceed `num_beams` = {self.num_beams}")

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[BeamDetail]:
        """``num_return`` answers per prompt, the best first; see :class:`textenv.sampling.methods.SamplingMethod`.

        Nothing is random, so ``behaviour_logprobs`` are NaN. ``score`` may be missing: then the answers are not scored.
        Of ``params`` only where answers end, their lengths and the token masks count.

        Raises:
            ConfigError: If ``params`` asks for more than masks and a length limit.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        if params.temperature not in (0.0, 1.0) or params.truncates or params.repetition_penalty != 1:
            raise ConfigError(
                "beam search ranks answers by the policy's own log-probs: leave temperature, truncation and repetition "
                "penalty out of `params`"
            )
        cost = Cost()
        finished: list[list[_Hypothesis]] = []
        for group in prompt_groups(len(encoded.ids), self.num_beams, self.max_batch):
            rows = Rows(policy, encoded, np.repeat(group, self.num_beams), params, cost, seed)
            finished += _Search(self, rows, len(group)).run()
        details, trajectories, indices = [], [], []
        for i, pool in enumerate(finished):
            best = sorted(pool, key=lambda h: -h.beam_score)[: self.num_return]
            details.append(
                BeamDetail(
                    np.array([h.log_prob for h in best]),
                    np.array([h.beam_score for h in best]),
                    np.array([h.group for h in best], np.int64),
                )
            )
            for index, hypothesis in enumerate(best):
                hypothesis.trajectory.sample_index = index
                trajectories.append(hypothesis.trajectory)
                indices.append(i)
        if score is not None:
            score_answers(score, trajectories, cost, "beam search")
        return MethodResult(trajectories, np.array(indices, np.int64), details, cost)


class _Search:
    """The beams of all prompts: row ``prompt * num_beams + group * width + place`` holds one of them."""

    def __init__(self, config: BeamSearch, rows: Rows, num_prompts: int) -> None:
        self.config, self.rows = config, rows
        self.width = config.num_beams // config.num_groups
        self.finished: list[list[_Hypothesis]] = [[] for _ in range(num_prompts)]
        # Sums of log-probs; −inf marks a place without a beam. At first all beams are the same, so one counts.
        self.sums = np.full((num_prompts, config.num_groups, self.width), -np.inf)
        self.sums[:, :, 0] = 0.0

    def run(self) -> list[list[_Hypothesis]]:
        """Finished answers of each prompt."""
        for step in range(self.rows.params.max_new_tokens):
            running = np.flatnonzero(np.isfinite(self.sums).ravel())
            if not len(running):
                break
            self._advance(running, step + 1)
            self._stop_hopeless(step + 1)
        return self.finished

    def _advance(self, running: NDArray[np.int64], length: int) -> None:
        """One more token for every beam; answers then have ``length`` tokens."""
        logits = self.rows.logits(running)
        logprobs = logits.double().log_softmax(-1)
        going_on = may_end(self.rows.answers, np.full(len(logits), length - 1), logits)
        if going_on is not None:
            logprobs = logprobs.masked_fill(~going_on, -torch.inf)
        if self.rows.params.masks:
            mask = token_mask(self.rows.params, logprobs.shape[1]).to(logprobs.device)
            logprobs = logprobs.masked_fill(~mask, -torch.inf)
        place_of = np.full(self.sums.size, -1)
        place_of[running] = np.arange(len(running))
        sources, targets, tokens, chosen = [], [], [], []
        for i in range(len(self.sums)):
            taken = torch.zeros(logprobs.shape[1], dtype=torch.float64, device=logprobs.device)
            for group in range(self.config.num_groups):
                first = (i * self.config.num_groups + group) * self.width
                alive = [row for row in range(first, first + self.width) if place_of[row] >= 0]
                if not alive:
                    continue
                picked = self._extend(i, group, alive, logprobs[place_of[alive]], taken, length)
                for place, (row, token, logprob) in enumerate(picked):
                    sources.append(row)
                    targets.append(first + place)
                    tokens.append(token)
                    chosen.append(logprob)
                    taken[token] += 1.0
        self.rows.copy(np.array(sources, np.int64), np.array(targets, np.int64))
        logprobs_of_chosen = np.array(chosen)
        nothing_drawn = np.full(len(chosen), np.nan)
        self.rows.append(np.array(targets, np.int64), np.array(tokens, np.int64), nothing_drawn, logprobs_of_chosen)
        if length == self.rows.params.max_new_tokens:
            for target in targets:
                self._finish(target, None, 0.0)
            self.sums[:] = -np.inf

    def _extend(
        self,
        prompt: int,
        group: int,
        alive: list[int],
        logprobs: torch.Tensor,
        taken: torch.Tensor,
        length: int,
    ) -> list[tuple[int, int, float]]:
        """A group's next beams as (row, token, log-prob of the token); answers that end are put aside."""
        sums = self.sums.reshape(-1)[alive]
        endings = 1 + len(self.rows.params.eos_token_id)
        totals = torch.as_tensor(sums, device=logprobs.device)[:, None] + logprobs
        ranks = totals - self.config.diversity_penalty * taken
        # So many that enough go on where the best all end.
        best = ranks.flatten().topk(min(max(2, endings) * self.width, ranks.numel())).indices.cpu().tolist()
        vocabulary = logprobs.shape[1]
        going_on: list[tuple[int, int, float]] = []
        new_sums = np.full(self.width, -np.inf)
        for rank, flat in enumerate(best):
            beam, token = divmod(flat, vocabulary)
            total, logprob = float(totals[beam, token]), float(logprobs[beam, token])
            if total == -np.inf:
                continue
            if length < self.rows.params.max_new_tokens and self.rows.ends_with(alive[beam], token):
                if rank < self.width:
                    self._finish(alive[beam], token, logprob)
            elif len(going_on) < self.width and (length < self.rows.params.max_new_tokens or rank < self.width):
                new_sums[len(going_on)] = total
                going_on.append((alive[beam], token, logprob))
        self.sums[prompt, group] = new_sums
        return going_on

    def _finish(self, row: int, token: int | None, logprob: float) -> None:
        """Put a row aside as an answer, with one more token or as it stands."""
        rows = self.rows
        if token is not None:  # others extend the row in this very step, so it gets back its length below
            rows.append(np.array([row]), np.array([token]), np.full(1, np.nan), np.array([logprob]))
        size = int(rows.answered[row])
        log_prob = float(rows.logprobs[row, :size].sum())
        prompt, group = divmod(row // self.width, self.config.num_groups)
        trajectory = rows.trajectory(row, source="beam")
        if token is not None:
            rows.lengths[row] -= 1
        hypothesis = _Hypothesis(log_prob / size**self.config.length_penalty, log_prob, group, trajectory)
        pool = self.finished[prompt]
        pool.append(hypothesis)
        inside = sorted((h for h in pool if h.group == group), key=lambda h: -h.beam_score)
        for worse in inside[self.width :]:
            pool.remove(worse)

    def _stop_hopeless(self, length: int) -> None:
        """End groups whose unfinished beams cannot get into the finished ones any more."""
        penalty = self.config.length_penalty
        longest = self.rows.params.max_new_tokens if penalty > 0 else length
        for i, pool in enumerate(self.finished):
            for group in range(self.config.num_groups):
                scores = [h.beam_score for h in pool if h.group == group]
                if len(scores) == self.width and self.sums[i, group].max() / longest**penalty <= min(scores):
                    self.sums[i, group] = -np.inf
