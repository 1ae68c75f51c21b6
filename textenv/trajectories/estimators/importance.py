"""Importance weights: what another policy would have made of answers that are there already.

The weight of an answer is ``π(answer) / b(answer)``, with ``b`` the distribution that it was drawn from. That is only
right where ``b`` could have drawn whatever ``π`` can: samplers that leave tokens out (top-k, top-p, min-p, greedy, …)
are refused, or flagged where asked. So are answers that a method chose among others or moved on (best-of-n, rejection,
beams, trees, power sampling, sequential Monte Carlo): how probable their tokens were says nothing about the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textenv.errors import ConfigError, DataError, ShapeError
from textenv.sampling.params import SamplingParams
from textenv.statistics import Estimate, grouped_ratio
from textenv.trajectories.columns import Ragged
from textenv.trajectory import Trajectory

Clip = tuple[float | None, float | None]
"""Smallest and largest weight; None leaves a side open. ``(None, c)`` is truncated importance sampling."""

SELECTED: Mapping[str, str] = {
    "best_of_n": "the best of several draws; weigh plain draws instead",
    "rejection": "drawn until the score was high enough; weigh plain draws instead",
    "power": "the end of a Markov chain, not of one draw; weigh plain draws instead",
    "beam": "found by search, not drawn; weigh plain draws instead",
    "tree": "a leaf that shares its beginning with others; use the tree's node values instead",
    "smc": "resampled by sequential Monte Carlo; the weight to use is `log_weight`, towards the method's target",
}
"""Sources of answers whose behaviour log-probs are not those of the answer as a draw, and what they are instead."""

_PARAMETERS = frozenset(f.name for f in fields(SamplingParams))


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Ratios of a target policy to the distribution that was drawn from.

    Attributes:
        log_ratios: ``log π − log b`` of each answer token, nats; 0 on tokens that the policy did not choose.
        chosen: True on tokens that the policy chose, shape ``(N,)`` as ``log_ratios.values``.
        truncated_support: True for answers whose sampler left tokens out: their weights are not to be trusted,
            shape ``(n,)``.
        selected: True for answers that a method chose or moved on: theirs are no importance weights at all, shape
            ``(n,)``; None where nobody looked.
        prompts: Number of each answer's prompt, shape ``(n,)``: answers to equal prompts are not independent. None:
            every answer stands alone.
    """

    log_ratios: Ragged
    chosen: NDArray[np.bool_]
    truncated_support: NDArray[np.bool_]
    selected: NDArray[np.bool_] | None = None
    prompts: NDArray[np.int64] | None = None

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """``log π(answer) − log b(answer)``, shape ``(n,)``."""
        return self.log_ratios.sums()

    def sequence(self, *, clip: Clip = (None, None), normalize: bool = False) -> NDArray[np.float64]:
        """Weights of whole answers, shape ``(n,)``.

        Args:
            clip: Bounds of a weight; any bound buys less variance with some bias.
            normalize: Scale them to sum to 1.
        """
        logs = self.log_weights
        if normalize and clip == (None, None):
            return np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        weights = _clipped(np.exp(logs), clip)
        return weights / weights.sum() if normalize else weights

    def geometric(self, *, clip: Clip = (None, None)) -> NDArray[np.float64]:
        """Geometric mean of an answer's token ratios, shape ``(n,)`` (GSPO, arXiv:2507.18071, eq. 7)."""
        tokens = np.bincount(self.log_ratios.row_of, weights=self.chosen, minlength=len(self.log_ratios))
        return _clipped(np.exp(self.log_weights / np.maximum(tokens, 1)), clip)

    def tokens(self, *, clip: Clip = (None, None), prefix: bool = False) -> Ragged:
        """Ratios of single tokens.

        Args:
            clip: Bounds of a weight.
            prefix: The product of the ratios up to and with each token instead: the weight of what was paid there
                (per-decision importance sampling, Precup et al. 2000).
        """
        logs = self.log_ratios.values.astype(np.float64)
        if prefix:
            total = np.concatenate([[0.0], np.cumsum(logs)])
            logs = total[1:] - np.repeat(total[self.log_ratios.offsets[:-1]], self.log_ratios.lengths)
        return Ragged(_clipped(np.exp(logs), clip), self.log_ratios.offsets, self.log_ratios.known)

    def effective_sample_size(self) -> float:
        """See :func:`effective_sample_size`."""
        return effective_sample_size(self.log_weights)

    def estimate(
        self,
        values: ArrayLike,
        *,
        clip: Clip = (None, None),
        self_normalized: bool = False,
        groups: ArrayLike | None = None,
    ) -> Estimate:
        """Mean of ``values`` under the target policy, from answers drawn by another.

        No interval knows of weights that have not been drawn yet: where few answers carry most of the weight
        (:meth:`effective_sample_size`), the mean is far off more often than its interval says.

        Args:
            values: One per answer, such as its score, shape ``(n,)``.
            clip: Bounds of the weights.
            self_normalized: Divide by the sum of weights: less variance, a bias of order 1/n.
            groups: What belongs together, shape ``(n,)``, the unit of the standard error; None: equal prompts.

        Raises:
            ShapeError: If there is not one value per answer.
        """
        array = np.asarray(values, np.float64)
        if array.shape != (len(self.log_ratios),):
            raise ShapeError(f"`values` has shape {array.shape}, expected ({len(self.log_ratios)},): one per answer")
        together = self.prompts if groups is None else groups
        weights = self.sequence(clip=clip, normalize=self_normalized)
        return grouped_ratio(weights * array, weights if self_normalized else np.ones(len(array)), together)


def importance_weights(
    trajectories: Sequence[Trajectory],
    policy: Any,
    *,
    temperature: float = 1.0,
    support: Literal["refuse", "flag"] = "refuse",
    batch_size: int = 64,
) -> ImportanceWeights:
    """Score stored answers with another policy and compare with what they were drawn from.

    Args:
        trajectories: Answers with behaviour log-probs, each a draw of its own.
        policy: A :class:`textenv.protocols.LogprobFn`, or an object with a method ``logprobs`` of that kind, such as
            ``agents.CausalLMPolicy``.
        temperature: Of the target policy; other than 1 needs a policy whose ``logprobs`` takes ``temperature``.
        support: What to do with answers whose sampler left tokens out, and with those that a method selected (by their
            ``source``, see ``SELECTED``): ``"refuse"`` them, or go on and ``"flag"`` them.
        batch_size: Answers per call.

    Raises:
        DataError: If a sampler left tokens out or an answer was selected and is refused, or log-probs of the draws are
            not known; names the trajectory.
        ConfigError: If the policy cannot be asked.
        ShapeError: If the policy answers with arrays of the wrong length.
    """
    if support not in ("refuse", "flag"):
        raise ConfigError(f"`support` must be 'refuse' or 'flag', got {support!r}")
    if not trajectories:
        raise DataError("there are no trajectories to weigh")
    flagged = np.array([truncates_support(t.sampling) for t in trajectories])
    selected = np.array([t.source in SELECTED for t in trajectories])
    for number, trajectory in enumerate(trajectories):
        if selected[number] and support == "refuse":
            raise DataError(
                f"trajectory {number} is no draw to be weighed: its source is {trajectory.source!r}, "
                f"{SELECTED[trajectory.source]}; or pass support='flag' to go on"
            )
        if not trajectory.knows_behaviour:
            raise DataError(
                f"trajectory {number} ({trajectory.source}) does not say how probable its draws were; weigh only "
                "trajectories with `behaviour_logprobs`"
            )
        if flagged[number] and support == "refuse":
            raise DataError(
                f"trajectory {number} was drawn with {_settings(trajectory)}, which leaves out tokens that the policy "
                "can choose, so no weight makes up for them; sample plainly, or pass support='flag' to go on"
            )
    scores = score_answers(trajectories, policy, temperature=temperature, batch_size=batch_size)
    rows, chosen = [], []
    for trajectory, ours in zip(trajectories, scores, strict=True):
        mask = np.ones(len(trajectory), bool) if trajectory.action_mask is None else trajectory.action_mask
        drawn = trajectory.behaviour_logprobs.astype(np.float64)
        rows.append(np.where(mask, ours.astype(np.float64) - drawn, 0.0))
        chosen.append(mask)
    prompts = np.unique([t.prompt_ids.tobytes().hex() for t in trajectories], return_inverse=True)[1]
    return ImportanceWeights(Ragged.from_rows(rows), np.concatenate(chosen).astype(bool), flagged, selected, prompts)


def score_answers(
    trajectories: Sequence[Trajectory], policy: Any, *, temperature: float = 1.0, batch_size: int = 64
) -> list[NDArray[np.float32]]:
    """A policy's log-probs of stored answers, nats, one array each; similar lengths are asked together.

    Args:
        trajectories: Answers.
        policy: See :func:`importance_weights`.
        temperature: See :func:`importance_weights`.
        batch_size: Answers per call.

    Raises:
        ConfigError: If the policy cannot be asked.
        ShapeError: If it answers with arrays of the wrong length.
    """
    ask: Any = getattr(policy, "logprobs", policy)
    if not callable(ask):
        raise ConfigError(f"`policy` must be a LogprobFn or have a method `logprobs`, got {type(policy).__name__}")
    if temperature != 1.0 and ask is policy:
        raise ConfigError(f"a plain LogprobFn has its own temperature; `temperature` must be 1, got {temperature}")
    found = [np.zeros(0, np.float32) for _ in trajectories]
    lengths = [len(t.prompt_ids) + len(t) for t in trajectories]
    order = [i for i in np.argsort(lengths, kind="stable") if len(trajectories[i])]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [trajectories[i].prompt_ids.tolist() for i in rows]
        answers = [trajectories[i].token_ids.tolist() for i in rows]
        named = {} if temperature == 1.0 else {"temperature": temperature}
        scored: Any = ask(prompts, answers, **named)
        for i, logprobs in zip(rows, scored, strict=True):
            if np.shape(logprobs) != (len(trajectories[i]),):
                raise ShapeError(
                    f"the policy returned shape {np.shape(logprobs)} for an answer of {len(trajectories[i])} tokens"
                )
            found[i] = np.asarray(logprobs)
    return found


def effective_sample_size(log_weights: ArrayLike) -> float:
    """``(Σw)² / Σw²``: how many equally weighted samples these are worth, between 1 and n (0 where all weights are 0).

    Args:
        log_weights: Logs of unnormalised weights, nats, shape ``(n,)``.

    Raises:
        ShapeError: If there is no weight, or one is NaN or +inf.
    Source: Kong 1992; Liu, Monte Carlo Strategies in Scientific Computing, section 2.5.3.
    """
    logs = np.asarray(log_weights, np.float64)
    if logs.ndim != 1 or not len(logs) or np.isnan(logs).any() or np.isposinf(logs).any():
        raise ShapeError("`log_weights` must have shape (n,) with n ≥ 1 and hold neither NaN nor +inf")
    if np.isneginf(logs).all():
        return 0.0
    weights = np.exp(logs - logs.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def truncates_support(sampling: Mapping[str, Any]) -> bool:
    """Whether a sampler left out tokens that the policy can choose; False where its settings are not known."""
    known = {name: value for name, value in sampling.items() if name in _PARAMETERS}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return not SamplingParams(**known).full_support


def _settings(trajectory: Trajectory) -> str:
    """Sampling settings that differ from the defaults, for a message."""
    plain = vars(SamplingParams()) | {"min_new_tokens": 0}
    ends = ("max_new_tokens", "stop", "eos_token_id")  # which change no distribution
    changed = {n: v for n, v in trajectory.sampling.items() if n not in ends and plain.get(n) != v}
    return ", ".join(f"{name}={value}" for name, value in changed.items())


def _clipped(weights: NDArray[np.float64], clip: Clip) -> NDArray[np.float64]:
    low, high = clip
    if low is not None and high is not None and low > high:
        raise ConfigError(f"`clip` must be (low, high) with low ≤ high, got {clip}")
    return weights if clip == (None, None) else np.clip(weights, low, high)
