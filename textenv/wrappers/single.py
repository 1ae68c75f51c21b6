"""The wrappers for single environments; ``textenv.wrappers.vector`` has those for vector environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from textenv.envs.options import SharedKwargs, check_action
from textenv.wrappers.base import HookWrapper, NextTokenLogprobs, slots_of
from textenv.wrappers.kl import (
    Estimator,
    FixedKLController,
    KLPenaltyHook,
    ReferenceLogProbHook,
    make_controller,
    with_reference_beta,
)
from textenv.wrappers.masks import LaggedTokens, ListedTokens, MaskSource, MaskState, RankedTokens
from textenv.wrappers.terms import (
    ClipHook,
    LengthPenaltyHook,
    MissingEosPenaltyHook,
    RecordHook,
    ScaleHook,
    WhitenHook,
)

Env = gym.Env[Any, Any]


class KLPenalty(HookWrapper):
    """Subtracts ``coef · KL(policy ‖ reference)`` from the reward; adds ``kl`` (nats, of the token) to the info.

    Args:
        env: The environment.
        reference: Log-probabilities of the reference policy.
        policy: Log-probabilities of the policy; None where the algorithm gives its own with
            :meth:`give_logprobs` before each step.
        coef: Coefficient, score units per nat; the first one where it adapts; or a controller.
        estimator: ``"k1"``, which can be paid; or, with ``coef=0``, to measure only: ``"k2"``, ``"k3"`` (of the sampled
            token) or ``"full"`` (exact, over the vocabulary). These do not regularise the token they are paid for.
        placement: ``"token"`` pays at each token, ``"last"`` the sum with the last one.
        target_kl: Nats per answer at which an adaptive coefficient aims; None keeps it fixed.
        horizon: Answers over which the coefficient adapts.

    Raises:
        ConfigError: If an argument is unusable.
    """

    hook: KLPenaltyHook

    def __init__(
        self,
        env: Env,
        reference: NextTokenLogprobs,
        policy: NextTokenLogprobs | None = None,
        *,
        coef: float | FixedKLController = 0.05,
        estimator: Estimator = "k1",
        placement: Literal["token", "last"] = "token",
        target_kl: float | None = None,
        horizon: float = 10_000.0,
    ) -> None:
        arguments = {
            "reference": reference,
            "policy": policy,
            "coef": coef,
            "estimator": estimator,
            "placement": placement,
            "target_kl": target_kl,
            "horizon": horizon,
        }
        controller = make_controller(coef, target_kl, horizon)
        super().__init__(env, KLPenaltyHook(reference, policy, controller, estimator, placement), arguments)

    @property
    def coef(self) -> float:
        """The coefficient now."""
        return self.hook.controller.coef

    def give_logprobs(self, logprobs: Any) -> None:
        """The policy's log-probability of the next action, shape ``()``; or of every token, shape ``(V,)``."""
        self.hook.give(np.asarray(logprobs, dtype=np.float64)[None])


class ReferenceLogProb(HookWrapper):
    """Adds ``beta · log π_ref(action)`` to the reward at every step.

    With ``beta`` times the policy's entropy *in the return* this is KL-regularisation towards the reference, for
    algorithms that expose no log-probabilities: ``-β KL = β E[log π_ref] + β H``. Soft Q-learning and SAC have it
    there. The bonus of PPO or A2C (``ent_coef``) is not part of the return: it counts at each token alone, and answers
    end early to escape the log-probabilities of later tokens. ``agents.sb3.SequenceRolloutBuffer`` puts it there (with
    ``ent_coef=beta`` and ``normalize_advantage=False``); everywhere else take :class:`KLPenalty`.

    Args:
        env: The environment.
        reference: Log-probabilities of the reference policy.
        beta: Weight, score units per nat.
    """

    def __init__(self, env: Env, reference: NextTokenLogprobs, beta: float) -> None:
        super().__init__(env, ReferenceLogProbHook(reference, beta), {"reference": reference, "beta": beta})
        self.observation_space = with_reference_beta(env.observation_space, beta)


class ScaleReward(HookWrapper):
    """Multiplies every reward.

    Args:
        env: The environment.
        scale: The factor.
    """

    def __init__(self, env: Env, scale: float) -> None:
        super().__init__(env, ScaleHook(scale), {"scale": scale})


class ClipReward(HookWrapper):
    """Clips every reward.

    Args:
        env: The environment.
        low: Least reward.
        high: Highest reward.

    Raises:
        ConfigError: If ``low`` exceeds ``high``.
    """

    def __init__(self, env: Env, low: float, high: float) -> None:
        super().__init__(env, ClipHook(low, high), {"low": low, "high": high})


class WhitenReward(HookWrapper):
    """Shifts and scales what scored ends pay to mean 0 and standard deviation 1 of all seen so far.

    Rewards inside episodes are scaled and not shifted. ``hook.frozen = True`` stops learning the statistics.

    Args:
        env: The environment.
        shift_mean: Whether to shift; without it only the scale changes, so that no answer's sign does.
        epsilon: Added to the standard deviation.
    """

    hook: WhitenHook

    def __init__(self, env: Env, shift_mean: bool = True, epsilon: float = 1e-8) -> None:
        super().__init__(env, WhitenHook(shift_mean, epsilon), {"shift_mean": shift_mean, "epsilon": epsilon})


class LengthPenalty(HookWrapper):
    """Subtracts ``per_token`` for every policy token beyond ``free_tokens`` when the episode ends.

    Args:
        env: The environment.
        per_token: Score units per token.
        free_tokens: Tokens that cost nothing.
    """

    def __init__(self, env: Env, per_token: float, free_tokens: int = 0) -> None:
        arguments = {"per_token": per_token, "free_tokens": free_tokens}
        super().__init__(env, LengthPenaltyHook(per_token, free_tokens), arguments)


class MissingEosPenalty(HookWrapper):
    """Subtracts ``penalty`` from answers that neither EOS nor a stop string ended.

    Args:
        env: The environment.
        penalty: Score units.
    """

    def __init__(self, env: Env, penalty: float = 1.0) -> None:
        super().__init__(env, MissingEosPenaltyHook(penalty), {"penalty": penalty})


class RecordTrajectories(HookWrapper):
    """Appends every finished episode to a JSONL file or a trajectory store, with what was paid at each step.

    A file is complete after every episode; read it back with ``textenv.wrappers.recording.read_episodes``. A store is
    appended to every 256 episodes and by ``close``; read it with :class:`textenv.trajectories.TrajectoryStore`. The
    environment does not know log-probabilities, so they are NaN there.

    Args:
        env: The environment.
        path: A file that ends in ``.jsonl``, or the folder of a trajectory store.
        episode_trigger: Says by the episode's number whether to record it; None records all.
    """

    def __init__(
        self, env: Env, path: str | Path, episode_trigger: Callable[[int], bool] | None = None
    ) -> None:  # fmt: skip
        super().__init__(env, RecordHook(path, episode_trigger), {"path": path, "episode_trigger": episode_trigger})


# --- masks ------------------------------------------------------------------------------------------------------------


class MaskWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A token mask around a single environment.

    Args:
        env: The environment.
        source: Says what is allowed.
        arguments: The subclass's own arguments, so that a spec can rebuild it.

    Raises:
        ConfigError: If the environment is none of ours.
    """

    def __init__(self, env: Env, source: MaskSource, arguments: dict[str, Any]) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        self._saved_kwargs = SharedKwargs(self._saved_kwargs)
        gym.Wrapper.__init__(self, env)
        self.source = source
        self._state = MaskState(source, self._inner_masks, slots_of(env, type(self).__name__))

    def _inner_masks(self) -> NDArray[np.bool_]:
        return self.env.get_wrapper_attr("action_masks")()[None]

    def action_masks(self) -> NDArray[np.bool_]:
        """True for tokens that may be chosen now, shape ``(vocab_size,)``."""
        return self._state.masks()[0].copy()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment with an allowed action.

        Raises:
            gymnasium.error.InvalidAction: If the action is masked.
        """
        actions = np.array([check_action(action)])
        self.env.unwrapped.slots.check_actions(actions, None)  # pyright: ignore[reportAttributeAccessIssue]
        self._state.check(actions, np.zeros(1, dtype=np.int64), type(self).__name__)
        result = self.env.step(action)
        self.source.taken(1)
        return result


class AllowTokens(MaskWrapper):
    """Allows only the listed tokens. The list must hold a token that ends answers, or every answer runs to its limit.

    Args:
        env: The environment.
        ids: The tokens.

    Raises:
        ConfigError: If the list is empty or does not fit the vocabulary.
    """

    def __init__(self, env: Env, ids: Sequence[int]) -> None:
        super().__init__(env, ListedTokens(ids, allow=True), {"ids": list(ids)})


class DenyTokens(MaskWrapper):
    """Denies the listed tokens.

    Args:
        env: The environment.
        ids: The tokens.

    Raises:
        ConfigError: If the list does not fit the vocabulary.
    """

    def __init__(self, env: Env, ids: Sequence[int]) -> None:
        super().__init__(env, ListedTokens(ids, allow=False), {"ids": list(ids)})


class TopK(MaskWrapper):
    """Allows the ``k`` likeliest tokens according to a policy.

    Args:
        env: The environment.
        logprobs: The policy.
        k: How many.

    Raises:
        ConfigError: If k is below 1.
    """

    def __init__(self, env: Env, logprobs: NextTokenLogprobs, k: int) -> None:
        super().__init__(env, RankedTokens(logprobs, k=k), {"logprobs": logprobs, "k": k})


class TopP(MaskWrapper):
    """Allows the fewest likeliest tokens whose probabilities reach ``p`` according to a policy.

    Args:
        env: The environment.
        logprobs: The policy.
        p: Probability mass.

    Raises:
        ConfigError: If p is outside (0, 1].
    """

    def __init__(self, env: Env, logprobs: NextTokenLogprobs, p: float) -> None:
        super().__init__(env, RankedTokens(logprobs, p=p), {"logprobs": logprobs, "p": p})


class LearnedMask(MaskWrapper):
    """Allows the top-p tokens of an earlier copy of the policy, renewed every so many tokens (NLPO).

    Args:
        env: The environment.
        snapshot: Makes a copy of the policy as it stands.
        p: Probability mass; NLPO's 0.9.
        refresh_every_tokens: Tokens taken between copies.

    Raises:
        ConfigError: If p or the interval is unusable.
    Source: Ramamurthy et al. 2023, arXiv:2210.01241, algorithm 1.
    """

    source: LaggedTokens

    def __init__(
        self,
        env: Env,
        snapshot: Callable[[], NextTokenLogprobs],
        p: float = 0.9,
        refresh_every_tokens: int = 10_000,
    ) -> None:
        arguments = {"snapshot": snapshot, "p": p, "refresh_every_tokens": refresh_every_tokens}
        super().__init__(env, LaggedTokens(snapshot, p=p, refresh_every_tokens=refresh_every_tokens), arguments)
