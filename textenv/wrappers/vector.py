"""The wrappers for vector environments: same names, arguments and arithmetic as in ``textenv.wrappers``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from textenv.envs.options import check_actions
from textenv.wrappers.base import NextTokenLogprobs, VectorHookWrapper, inner_attribute, slots_of
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

Envs = VectorEnv[Any, Any, Any]


class KLPenalty(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.KLPenalty`, with the same arguments."""

    hook: KLPenaltyHook

    def __init__(
        self,
        env: Envs,
        reference: NextTokenLogprobs,
        policy: NextTokenLogprobs | None = None,
        *,
        coef: float | FixedKLController = 0.05,
        estimator: Estimator = "k1",
        placement: Literal["token", "last"] = "token",
        target_kl: float | None = None,
        horizon: float = 10_000.0,
    ) -> None:
        controller = make_controller(coef, target_kl, horizon)
        super().__init__(env, KLPenaltyHook(reference, policy, controller, estimator, placement))

    @property
    def coef(self) -> float:
        """The coefficient now."""
        return self.hook.controller.coef

    def give_logprobs(self, logprobs: Any) -> None:
        """The policy's log-probabilities of the next actions, shape ``(n,)``; or of every token, shape ``(n, V)``."""
        self.hook.give(logprobs)


class ReferenceLogProb(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.ReferenceLogProb`, with the same arguments."""

    def __init__(self, env: Envs, reference: NextTokenLogprobs, beta: float) -> None:
        super().__init__(env, ReferenceLogProbHook(reference, beta))
        self.single_observation_space = with_reference_beta(env.single_observation_space, beta)


class ScaleReward(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.ScaleReward`, with the same arguments."""

    def __init__(self, env: Envs, scale: float) -> None:
        super().__init__(env, ScaleHook(scale))


class ClipReward(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.ClipReward`, with the same arguments."""

    def __init__(self, env: Envs, low: float, high: float) -> None:
        super().__init__(env, ClipHook(low, high))


class WhitenReward(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.WhitenReward`, with the same arguments."""

    hook: WhitenHook

    def __init__(self, env: Envs, shift_mean: bool = True, epsilon: float = 1e-8) -> None:
        super().__init__(env, WhitenHook(shift_mean, epsilon))


class LengthPenalty(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.LengthPenalty`, with the same arguments."""

    def __init__(self, env: Envs, per_token: float, free_tokens: int = 0) -> None:
        super().__init__(env, LengthPenaltyHook(per_token, free_tokens))


class MissingEosPenalty(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.MissingEosPenalty`, with the same arguments."""

    def __init__(self, env: Envs, penalty: float = 1.0) -> None:
        super().__init__(env, MissingEosPenaltyHook(penalty))


class RecordTrajectories(VectorHookWrapper):
    """Vector form of :class:`textenv.wrappers.RecordTrajectories`, with the same arguments."""

    def __init__(
        self, env: Envs, path: str | Path, episode_trigger: Callable[[int], bool] | None = None
    ) -> None:  # fmt: skip
        super().__init__(env, RecordHook(path, episode_trigger))


# --- masks ------------------------------------------------------------------------------------------------------------


class VectorMaskWrapper(VectorWrapper):
    """A token mask around a vector environment.

    Args:
        env: The environment.
        source: Says what is allowed.

    Raises:
        ConfigError: If the environment is none of ours.
    """

    def __init__(self, env: Envs, source: MaskSource) -> None:
        super().__init__(env)
        self.source = source
        self._base: Any = env.unwrapped
        slots = slots_of(env, type(self).__name__)
        self._state = MaskState(source, self._inner_masks, slots)

    def _inner_masks(self) -> NDArray[np.bool_]:
        return inner_attribute(self.env, "action_masks")()

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The wrapped environment's mode, which TorchRL looks for here."""
        return self._base.autoreset_mode

    def __getattr__(self, name: str) -> Any:
        """What the wrapped environment has beyond Gymnasium's interface, e.g. ``last_episodes``."""
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inner_attribute(self.env, name)

    def action_masks(self) -> NDArray[np.bool_]:
        """True for tokens that each slot may choose now, shape ``(num_envs, vocab_size)``."""
        return self._state.masks().copy()

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps the environment with allowed actions.

        Raises:
            gymnasium.error.InvalidAction: If an action is masked; names slot and value.
        """
        actions = check_actions(actions, self.num_envs)
        rows = self._base.taking(actions)
        self._base.slots.check_actions(actions, rows)
        rows = np.arange(self.num_envs) if rows is None else rows
        self._state.check(actions, rows, type(self).__name__)
        result = self.env.step(actions)
        self.source.taken(len(rows))
        return result


class AllowTokens(VectorMaskWrapper):
    """Vector form of :class:`textenv.wrappers.AllowTokens`, with the same arguments."""

    def __init__(self, env: Envs, ids: Sequence[int]) -> None:
        super().__init__(env, ListedTokens(ids, allow=True))


class DenyTokens(VectorMaskWrapper):
    """Vector form of :class:`textenv.wrappers.DenyTokens`, with the same arguments."""

    def __init__(self, env: Envs, ids: Sequence[int]) -> None:
        super().__init__(env, ListedTokens(ids, allow=False))


class TopK(VectorMaskWrapper):
    """Vector form of :class:`textenv.wrappers.TopK`, with the same arguments."""

    def __init__(self, env: Envs, logprobs: NextTokenLogprobs, k: int) -> None:
        super().__init__(env, RankedTokens(logprobs, k=k))


class TopP(VectorMaskWrapper):
    """Vector form of :class:`textenv.wrappers.TopP`, with the same arguments."""

    def __init__(self, env: Envs, logprobs: NextTokenLogprobs, p: float) -> None:
        super().__init__(env, RankedTokens(logprobs, p=p))


class LearnedMask(VectorMaskWrapper):
    """Vector form of :class:`textenv.wrappers.LearnedMask`, with the same arguments."""

    source: LaggedTokens

    def __init__(
        self,
        env: Envs,
        snapshot: Callable[[], NextTokenLogprobs],
        p: float = 0.9,
        refresh_every_tokens: int = 10_000,
    ) -> None:
        super().__init__(env, LaggedTokens(snapshot, p=p, refresh_every_tokens=refresh_every_tokens))
