"""KL-regularisation: coefficients that adapt, and the hooks that pay for the divergence.

All divergences are KL(policy ‖ reference) in nats, per token where not said otherwise.

Only ``k1`` can be paid. The others measure as well or better, but what they are in a state hardly depends on the token
chosen there (``full`` not at all), so a reward made of them regularises the tokens before, not the one it is paid for.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from textenv.envs.slots import Slots
from textenv.errors import ConfigError, ShapeError
from textenv.kl import ESTIMATORS
from textenv.wrappers.base import Hook, NextTokenLogprobs, Transition

Estimator = Literal["k1", "k2", "k3", "full"]


def kl_full(logprobs: NDArray[np.float64], ref_logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact ``Σ_a π(a) (log π(a) - log π_ref(a))`` over the last axis; infinite where the supports do not fit."""
    probs = np.exp(logprobs)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where the term is 0
        return np.where(probs > 0, probs * (logprobs - ref_logprobs), 0.0).sum(axis=-1)


class FixedKLController:
    """A coefficient that stays: a setting, so that a resumed run counts what it is given and not what was saved.

    Args:
        coef: Weight of the divergence, score units per nat.
    """

    def __init__(self, coef: float) -> None:
        self.coef = float(coef)

    def update(self, kl_per_answer: NDArray[np.float64]) -> None:
        """Takes note of finished answers and changes nothing."""

    def get_state(self) -> dict[str, float]:
        """The coefficient, JSON-able."""
        return {"coef": self.coef}

    def set_state(self, state: dict[str, float]) -> None:
        """Takes note of a saved state and changes nothing."""


class AdaptiveKLController(FixedKLController):
    """Raises or lowers the coefficient until answers diverge by the target.

    ``coef ← coef · (1 + clip(KL / target - 1, ±0.2) · n / horizon)`` after ``n`` answers of mean divergence ``KL``.

    Args:
        init_coef: First coefficient, score units per nat.
        target_kl: Wanted divergence, nats per answer.
        horizon: Answers over which an error of 0.2 changes the coefficient by 20%.

    Raises:
        ConfigError: If target or horizon is not above 0.
    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2 (K = 1 / horizon per answer).
    """

    def __init__(self, init_coef: float = 0.2, target_kl: float = 6.0, horizon: float = 10_000.0) -> None:
        super().__init__(init_coef)
        if target_kl <= 0 or horizon <= 0:
            raise ConfigError(f"target_kl and horizon must be above 0, got {target_kl} and {horizon}")
        self.target_kl = target_kl
        self.horizon = horizon

    def update(self, kl_per_answer: NDArray[np.float64]) -> None:
        """Adapts the coefficient.

        Args:
            kl_per_answer: Divergence of the answers that just ended, nats, shape ``(n,)``.
        """
        if len(kl_per_answer):
            error = float(np.clip(np.mean(kl_per_answer) / self.target_kl - 1.0, -0.2, 0.2))
            self.coef *= 1.0 + error * len(kl_per_answer) / self.horizon

    def set_state(self, state: dict[str, float]) -> None:
        """Goes on from a saved coefficient."""
        self.coef = float(state["coef"])


def make_controller(
    coef: float | FixedKLController, target_kl: float | None = None, horizon: float = 10_000.0
) -> FixedKLController:
    """A controller from plain numbers: fixed without a target, adaptive with one."""
    if isinstance(coef, FixedKLController):
        return coef
    return FixedKLController(coef) if target_kl is None else AdaptiveKLController(coef, target_kl, horizon)


def logprobs_before(fn: NextTokenLogprobs, slots: Slots, rows: NDArray[np.int64], who: str) -> NDArray[np.float64]:
    """A function's log-probabilities for these slots as they stand, shape ``(k, V)``.

    Raises:
        ShapeError: If it returns another shape, or NaN.
    """
    logprobs = np.asarray(fn(slots.tokens[rows], slots.lengths[rows]), dtype=np.float64)
    if (
        logprobs.ndim != 2
        or len(logprobs) != len(rows)
        or logprobs.shape[1] < slots.task.num_tokens
        or np.isnan(logprobs).any()
    ):
        raise ShapeError(
            f"{who} must return log-probabilities without NaN of shape ({len(rows)}, {slots.task.vocab_size}), "
            f"got {logprobs.shape}"
        )
    return logprobs


def check_finite_tokens(
    values: NDArray[np.float64], rows: NDArray[np.int64], chosen: NDArray[np.int64], what: str
) -> None:
    """Refuses to pay what is not finite, before anything has changed.

    Raises:
        ShapeError: Naming slot, token and value.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        i = bad[0]
        raise ShapeError(
            f"{what} of token {int(chosen[i])} in slot {int(rows[i])} is {values[i]}: policy or reference excludes it; "
            "forbid the token with a mask wrapper"
        )


class KLPenaltyHook(Hook):
    """Subtracts ``coef · KL(policy ‖ reference)``; see :class:`textenv.wrappers.KLPenalty`."""

    def __init__(
        self,
        reference: NextTokenLogprobs,
        policy: NextTokenLogprobs | None,
        controller: FixedKLController,
        estimator: Estimator,
        placement: Literal["token", "last"],
    ) -> None:
        if estimator not in ("k1", "k2", "k3", "full"):
            raise ConfigError(f"estimator must be 'k1', 'k2', 'k3' or 'full', got {estimator!r}")
        if estimator != "k1" and controller.coef:
            raise ConfigError(
                f"estimator {estimator!r} cannot be paid as a reward, it does not regularise the token that it is paid "
                "for; pay estimator='k1', or pass coef=0 to measure only"
            )
        if placement not in ("token", "last"):
            raise ConfigError(f"placement must be 'token' or 'last', got {placement!r}")
        self.reference = reference
        self.policy = policy
        self.controller = controller
        self.estimator: Estimator = estimator
        self.placement = placement
        self._given: NDArray[np.float64] | None = None
        self._before = np.zeros(0)
        self._step = np.zeros(0)
        self._answer = np.zeros(0)

    def attach(self, slots: Slots) -> None:
        """Makes room for the slots' sums."""
        super().attach(slots)
        self._step = np.zeros(slots.num_slots)
        self._answer = np.zeros(slots.num_slots)

    def give(self, logprobs: Any) -> None:
        """Takes the policy's log-probabilities for the next step."""
        self._given = np.asarray(logprobs, dtype=np.float64)

    def begin(self, started: NDArray[np.bool_]) -> None:
        """Forgets the sums of slots that were reset."""
        self._answer[started] = 0.0
        self._step[started] = 0.0

    def before(self, slots: Slots, actions: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Measures the divergence of each token about to be taken."""
        self._before = np.zeros(slots.num_slots)
        if not len(rows):
            return
        reference = logprobs_before(self.reference, slots, rows, "reference")
        chosen = actions[rows]
        logprobs = self._own(slots, rows)
        if self.estimator == "full":
            if logprobs.ndim != 2:
                raise ShapeError("the 'full' estimator needs log-probabilities of every token, shape (slots, V)")
            width = min(logprobs.shape[1], reference.shape[1])
            self._before[rows] = kl_full(logprobs[:, :width], reference[:, :width])
        else:
            taken = logprobs if logprobs.ndim == 1 else logprobs[np.arange(len(rows)), chosen]
            with np.errstate(invalid="ignore"):
                measured = ESTIMATORS[self.estimator](taken - reference[np.arange(len(rows)), chosen])
            self._before[rows] = measured
        check_finite_tokens(self._before[rows], rows, chosen, "the divergence")

    def _own(self, slots: Slots, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.policy is not None:
            return logprobs_before(self.policy, slots, rows, "policy")
        if self._given is None:
            raise ConfigError("KLPenalty without a policy needs give_logprobs(...) before every step")
        given, self._given = self._given, None
        if given.shape[:1] != (slots.num_slots,) or given.ndim > 2:
            raise ShapeError(f"give_logprobs got shape {given.shape}, expected one entry for each of {slots.num_slots}")
        if given.ndim == 2 and given.shape[1] < slots.task.num_tokens:
            raise ShapeError(
                f"give_logprobs got {given.shape[1]} log-probs per slot, there are {slots.task.num_tokens}"
            )
        return given[rows]

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Pays for the divergence, by token or with the last one."""
        self._step = self._before
        self._answer += self._step
        ended, coef = transition.ended, self.controller.coef
        due = self._step if self.placement == "token" else np.where(ended, self._answer, 0.0)
        if not self.evaluating:
            self.controller.update(self._answer[ended])
        self._answer = np.where(ended, 0.0, self._answer)
        return transition.rewards - coef * due

    def infos(self) -> dict[str, NDArray[Any]]:
        """``kl``: the divergence of the token just taken, nats."""
        return {"kl": self._step}

    def read_episode(self, slot: int) -> float:
        """The divergence of the answer so far, nats."""
        return float(self._answer[slot])

    def write_episode(self, slot: int, known: float | None) -> None:
        """Goes on from such a sum."""
        self._answer[slot] = known or 0.0
        self._step[slot] = 0.0


SpaceT = TypeVar("SpaceT", bound="spaces.Space[Any]")


def reference_beta(space: spaces.Space[Any]) -> float:
    """Weight of the reference's log-probabilities in the rewards of environments with this observation space.

    Learners are given spaces and no wrappers, so :class:`textenv.wrappers.ReferenceLogProb` leaves a note there.
    """
    return float(getattr(space, "reference_beta", 0.0))


def with_reference_beta(space: SpaceT, beta: float) -> SpaceT:
    """A copy of the space that notes another ``beta`` in the rewards."""
    noted: Any = copy.copy(space)
    noted.reference_beta = reference_beta(space) + float(beta)
    return noted


class ReferenceLogProbHook(Hook):
    """Adds ``beta · log π_ref(a|s)``; see :class:`textenv.wrappers.ReferenceLogProb`."""

    def __init__(self, reference: NextTokenLogprobs, beta: float) -> None:
        self.reference = reference
        self.beta = float(beta)
        self._bonus = np.zeros(0)

    def before(self, slots: Slots, actions: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Asks the reference about the tokens to be taken."""
        self._bonus = np.zeros(slots.num_slots)
        if len(rows):
            logprobs = logprobs_before(self.reference, slots, rows, "reference")
            self._bonus[rows] = logprobs[np.arange(len(rows)), actions[rows]]
            check_finite_tokens(self._bonus[rows], rows, actions[rows], "the reference's log-probability")

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Pays the bonus."""
        return transition.rewards + self.beta * self._bonus
