"""Sequential Monte Carlo: weighted answers from the policy tilted by a reward, and its normalising constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError, RewardError
from textenv.protocols import GenerativePolicy
from textenv.rewards import call_reward
from textenv.sampling.methods.base import (
    Cost,
    EncodedPrompts,
    MethodResult,
    Prompts,
    check_full_support,
    prompt_groups,
    start_sampling,
    stream_seed,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams, SettledParams
from textenv.sampling.sampler import trajectory_uniforms
from textenv.settings import PositiveFloat, PositiveInt, Settings, UnitFloat
from textenv.trajectory import Trajectory


@runtime_checkable
class PrefixValues(Protocol):
    """A twist that reads tokens: a critic, say."""

    def prefix_values(self, prompt_ids: list[list[int]], response_ids: list[list[int]], /) -> Sequence[float]:
        """One finite value, in score units, per unfinished answer."""
        ...


class SMCDetail(NamedTuple):
    """What sequential Monte Carlo knows about a prompt; N particles, T steps until all had ended.

    Attributes:
        scores: Of the final particles, shape ``(N,)``.
        log_weights: Of the final particles, normalised so that their exponentials sum to 1, ``(N,)``.
        log_z: Log of an unbiased estimate of ``Z = E_policy[exp(score / beta)]``.
        ess: Effective sample size after each step, before resampling, in particles, ``(T,)``.
        ancestors: Particle that each one continues, by step: ``ancestors[t, i]`` was particle i's number before the
            resampling that followed step t, ``(T, N)``; the identity where there was none.
        resampled: Steps that were followed by a resampling, bool, ``(T,)``.
    """

    scores: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    log_z: float
    ess: NDArray[np.float64]
    ancestors: NDArray[np.int64]
    resampled: NDArray[np.bool_]

    def expectation(self, values: NDArray[np.float64]) -> float:
        """Weighted mean of something about each particle, an estimate of its mean under the tilted policy."""
        return float((np.exp(self.log_weights) * values).sum())


@dataclass(frozen=True)
class SequentialMonteCarlo(Settings):
    """Particles grow token by token; weights say how much likelier the tilted policy makes them.

    The target is ``π(answer) ∝ policy(answer) · exp(score / beta)``, the optimum of KL-regularised reinforcement
    learning. A twist function guesses the final score of unfinished answers; the true score replaces it at the end, so
    a bad twist costs variance and never correctness. Particles are resampled (systematically) when their effective
    sample size falls below a share of their number. ``exp(log_z)`` is unbiased whatever the twist and the threshold;
    weighted means are consistent as the particles become many.

    Attributes:
        particles: Per prompt.
        beta: Score units per nat.
        twist: Function of prompts and unfinished answers, model with ``.score``, or :class:`PrefixValues`, that
            guesses the final score (or, better, ``beta · log E[exp(score / beta)]``); None weighs at the end only.
        twist_every: Tokens between two guesses.
        ess_threshold: Resample below this share of effective particles; 0 never does, 1 always.
        max_batch: Particles that are decoded side by side.

    Raises:
        ConfigError: If a setting is out of range.
    Source: Zhao et al. 2024, arXiv:2404.17546; Lew et al. 2023, arXiv:2306.03081.
    """

    particles: PositiveInt = 16
    beta: PositiveFloat = 1.0
    twist: Callable[[list[str], list[str]], Any] | PrefixValues | Any = None
    twist_every: PositiveInt = 1
    ess_threshold: UnitFloat = 0.5
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[SMCDetail]:
        """All particles with their weights; see :class:`textenv.sampling.methods.SamplingMethod`.

        ``params`` is the proposal: the weights take out what it does to the policy.

        Raises:
            ConfigError: If ``score`` is missing, or the proposal leaves out tokens.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward or twist function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        check_full_support(params, "sequential Monte Carlo")
        if score is None:
            raise ConfigError("sequential Monte Carlo needs `score`: it tilts the policy")
        cost = Cost()
        trajectories: list[Trajectory] = []
        details: list[SMCDetail] = []
        for group in prompt_groups(len(encoded.ids), self.particles, self.max_batch):
            run = _Particles(self, policy, encoded, group, score, params, seed, cost)
            details += run.run()
            trajectories += run.trajectories()
        indices = np.repeat(np.arange(len(details)), self.particles)
        return MethodResult(trajectories, indices, details, cost)


class _Particles:
    """The particles of some prompts; row ``place * N + i`` holds particle i of the place-th of them."""

    def __init__(
        self,
        config: SequentialMonteCarlo,
        policy: GenerativePolicy,
        prompts: EncodedPrompts,
        group: NDArray[np.int64],
        score: Any,
        params: SettledParams,
        seed: int,
        cost: Cost,
    ) -> None:
        self.config, self.score, self.cost, self.group = config, score, cost, group
        self.rows = Rows(policy, prompts, np.repeat(group, config.particles), params, cost, seed)
        shape = (len(group), config.particles)
        self.log_weights = np.zeros(shape)  # since the last resampling
        self.log_psi = np.zeros(len(self.rows))  # twist (or final score) over beta that the weights contain
        self.scores = np.full(len(self.rows), np.nan)
        self.log_z = np.zeros(len(group))
        numbers = (group[:, None] * config.particles + np.arange(config.particles)).ravel()
        self.uniforms = trajectory_uniforms(stream_seed(seed, 0), numbers, params.max_new_tokens)
        self.points = trajectory_uniforms(stream_seed(seed, 1), group, params.max_new_tokens)

    def run(self) -> list[SMCDetail]:
        """Let all particles grow to their end."""
        ess, ancestors, resampled, alive = [], [], [], []
        for step in range(self.rows.params.max_new_tokens):
            running = np.flatnonzero(~self.rows.finished)
            if not len(running):
                break
            alive.append(~self.rows.finished.reshape(self.log_weights.shape).all(1))
            self.rows.draw(running, self.uniforms[running, step])
            self._weigh(running, step)
            ess.append(effective_sizes(self.log_weights))
            chosen = np.tile(np.arange(self.config.particles), (len(self.group), 1))
            unfinished = ~self.rows.finished.reshape(self.log_weights.shape)
            # Nothing grows after a resampling of finished particles: it would only add noise.
            poor = (ess[-1] < self.config.ess_threshold * self.config.particles) & unfinished.any(1)
            for place in np.flatnonzero(poor).tolist():
                chosen[place] = self._resample(place, self.points[place, step])
            if poor.any():
                self._move(chosen)
            ancestors.append(chosen)
            resampled.append(poor)
        totals = np.logaddexp.reduce(self.log_weights, axis=1)
        self.log_z += totals - np.log(self.config.particles)
        self.log_weights -= totals[:, None]
        scores = self.scores.reshape(self.log_weights.shape)
        return [
            SMCDetail(
                scores[place],
                self.log_weights[place],
                float(self.log_z[place]),
                np.array(ess)[:steps, place],
                np.array(ancestors)[:steps, place],
                np.array(resampled)[:steps, place],
            )
            for place, steps in enumerate(np.sum(alive, axis=0))
        ]

    def _weigh(self, grown: NDArray[np.int64], step: int) -> None:
        """Multiply the weights by policy / proposal of the last token, and by new twist / old twist."""
        rows, flat = self.rows, self.log_weights.reshape(-1)
        flat[grown] += rows.logprobs[grown, step] - rows.behaviour[grown, step]
        over = rows.finished[grown]
        done, open_ = grown[over], grown[~over]
        if len(done):
            self.scores[done] = call_reward(self.score, *rows.texts(done))
            self.cost.reward_calls += len(done)
            self._change_psi(done, self.scores[done])
        if self.config.twist is not None and len(open_) and (step + 1) % self.config.twist_every == 0:
            self.cost.twist_calls += len(open_)
            self._change_psi(open_, self._guesses(open_))

    def _guesses(self, open_: NDArray[np.int64]) -> NDArray[np.float64]:
        """The twist of unfinished rows, score units."""
        twist, rows = self.config.twist, self.rows
        if not isinstance(twist, PrefixValues):
            return call_reward(twist, *rows.texts(open_))
        prompts = [rows.prompts.ids[i] for i in rows.prompt_indices[open_]]
        values = np.asarray(twist.prefix_values(prompts, [rows.answer(row).tolist() for row in open_]), np.float64)
        if values.shape != (len(open_),) or not np.isfinite(values).all():
            raise RewardError(
                f"the twist returned {values!r} for {len(open_)} prefixes; expected one finite value each"
            )
        return values

    def _change_psi(self, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        new = scores / self.config.beta
        self.log_weights.reshape(-1)[rows] += new - self.log_psi[rows]
        self.log_psi[rows] = new

    def _resample(self, place: int, uniform: float) -> NDArray[np.int64]:
        """Ancestors of one prompt's particles; their weights become equal, and the mean goes into log Z."""
        total = float(np.logaddexp.reduce(self.log_weights[place]))
        chosen = systematic(np.exp(self.log_weights[place] - total), uniform)
        self.log_z[place] += total - np.log(self.config.particles)
        self.log_weights[place] = 0.0
        return chosen

    def _move(self, chosen: NDArray[np.int64]) -> None:
        sources = (np.arange(len(chosen))[:, None] * self.config.particles + chosen).ravel()
        self.rows.copy(sources, np.arange(len(self.rows)))
        self.log_psi, self.scores = self.log_psi[sources], self.scores[sources]

    def trajectories(self) -> list[Trajectory]:
        """The particles as they stand, with scores and log-weights."""
        particles = []
        for row in range(len(self.rows)):
            place, index = divmod(row, self.config.particles)
            trajectory = self.rows.trajectory(row, source="smc", sample_index=index)
            trajectory.score = float(self.scores[row])
            trajectory.log_weight = float(self.log_weights[place, index])
            particles.append(trajectory)
        return particles


def effective_sizes(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Effective sample size ``(Σ w)² / Σ w²`` of each row of log-weights, ``(B, N) -> (B,)``."""
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights.sum(1) ** 2 / (weights**2).sum(1)


def systematic(weights: NDArray[np.float64], uniform: float) -> NDArray[np.int64]:
    """Systematic resampling: entry i is chosen ``N w_i`` times, rounded up or down, with that mean.

    Args:
        weights: Summing to 1, shape ``(N,)``.
        uniform: One number in [0, 1).

    Returns:
        Chosen entries, ``(N,)``; one copy of each stands where it stood, so that few have to be moved.
    Source: Carpenter, Clifford and Fearnhead 1999.
    """
    count = len(weights)
    cumulative = np.cumsum(weights)
    points = (uniform + np.arange(count)) / count * cumulative[-1]
    copies = np.bincount(np.minimum(np.searchsorted(cumulative, points, side="right"), count - 1), minlength=count)
    chosen = np.arange(count)
    spare = np.flatnonzero(copies == 0)
    chosen[spare] = np.repeat(np.arange(count), np.maximum(copies - 1, 0))
    return chosen
