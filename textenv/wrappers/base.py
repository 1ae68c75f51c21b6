"""What the wrappers share: one hook does the work, and two thin classes put it around single and vector environments.

A hook sees a step of ``n`` slots as arrays; the single environment is the case ``n = 1``. So each wrapper's arithmetic
exists once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from textenv.envs.options import SharedKwargs, check_action, check_actions
from textenv.envs.slots import Slots
from textenv.episode import Episode
from textenv.errors import ConfigError


class NextTokenLogprobs(Protocol):
    """Log-probabilities of every possible next token, e.g. of a reference policy."""

    def __call__(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], /) -> NDArray[np.floating]:
        """Log-probabilities in nats, shape ``(k, V)``, for rows of tokens ``(k, L)`` that are ``lengths`` long."""
        ...


class Transition(NamedTuple):
    """One step of all slots.

    Attributes:
        slots: The environment's slots, after the step.
        rows: Slots whose action was taken: not idle, and not reset by this step; shape ``(k,)``.
        actions: Shape ``(n,)``.
        rewards: What the wrapped environment paid, shape ``(n,)``.
        ended: Slots whose episode ended in this step, shape ``(n,)``.
        terminated: Those of them that ended as part of the task and were scored, shape ``(n,)``.
        episodes: Those episodes, by slot; None elsewhere.
    """

    slots: Slots
    rows: NDArray[np.int64]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    ended: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    episodes: list[Episode | None]


class Hook:
    """Does a wrapper's work around each step. The base class changes nothing.

    One that knows something of running episodes has ``read_episode`` and ``write_episode``
    (:class:`textenv.envs.slots.EpisodeKeeper`), so that saved states hold it.

    Attributes:
        evaluating: Whether held-out prompts are played: what is paid stays the same, but nothing is learned from the
            episodes and none is recorded; rewards are not normalised, so that evaluations can be compared.
    """

    evaluating: bool = False

    def attach(self, slots: Slots) -> None:
        """Called once, when the environment is wrapped."""
        if hasattr(self, "read_episode"):
            name = type(self).__name__
            others = sum(known.split(" ")[0] == name for known in slots.hooks)
            slots.hooks[name if not others else f"{name} {others + 1}"] = self  # pyright: ignore[reportArgumentType]

    def begin(self, started: NDArray[np.bool_]) -> None:
        """Called when ``reset`` has started episodes in these slots, shape ``(n,)``."""

    def before(self, slots: Slots, actions: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Called before a step, with actions that are known to be valid tokens."""

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """The rewards to pay instead, shape ``(n,)``."""
        return transition.rewards

    def infos(self) -> dict[str, NDArray[Any]]:
        """Numbers to add to the infos of the step just taken, each of shape ``(n,)``; the same keys always."""
        return {}

    def close(self) -> None:
        """Releases what the hook holds; may be called again and again."""


def slots_of(env: Any, wrapper: str) -> Slots:
    """The slots of a wrapped environment.

    Raises:
        ConfigError: If it is none of ours.
    """
    slots = getattr(env.unwrapped, "slots", None)
    if not isinstance(slots, Slots):
        raise ConfigError(
            f"{wrapper} needs a textenv environment, got {type(env.unwrapped).__name__}; inside Gymnasium's "
            "SyncVectorEnv wrap the single environments instead"
        )
    return slots


@contextmanager
def evaluation(envs: Any) -> Iterator[None]:
    """Inside this context an environment's wrappers know that held-out prompts are played; see :class:`Hook`.

    Gymnasium's normalising wrappers stop updating their statistics.
    """
    parts: list[tuple[Any, str, bool]] = []
    while isinstance(envs, VectorWrapper):
        inner = getattr(envs, "hook", None) or envs.__dict__.get("source")
        if hasattr(inner, "evaluating"):
            parts.append((inner, "evaluating", True))
        if hasattr(type(envs), "update_running_mean"):
            parts.append((envs, "update_running_mean", False))
        envs = envs.env
    before = [getattr(part, name) for part, name, _ in parts]
    for part, name, value in parts:
        setattr(part, name, value)
    try:
        yield
    finally:
        for (part, name, _), value in zip(parts, before, strict=True):
            setattr(part, name, value)


def inner_attribute(env: Any, name: str) -> Any:
    """What a vector environment, or the first one inside it, has under a name beyond Gymnasium's interface.

    Gymnasium's own vector wrappers forward no attributes, so ours look through them.

    Raises:
        AttributeError: If none has it.
    """
    while not hasattr(env, name):
        if not isinstance(env, VectorWrapper):
            raise AttributeError(f"{type(env).__name__!r} object has no attribute {name!r}")
        env = env.env
    return getattr(env, name)


class HookWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A hook around a single environment.

    Args:
        env: The environment.
        hook: The hook.
        arguments: The subclass's own arguments, so that a spec can rebuild it.

    Raises:
        ConfigError: If the environment is none of ours.
    """

    def __init__(self, env: gym.Env[Any, Any], hook: Hook, arguments: dict[str, Any]) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        self._saved_kwargs = SharedKwargs(self._saved_kwargs)
        gym.Wrapper.__init__(self, env)
        self._slots = slots_of(env, type(self).__name__)
        self.hook = hook
        hook.attach(self._slots)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.hook.begin(~self._slots.restored)
        return observation, {**info, **{key: values.dtype.type(0).item() for key, values in self.hook.infos().items()}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment, with the hook around it."""
        actions, rows = np.array([check_action(action)]), np.zeros(1, dtype=np.int64)
        self._slots.check_actions(actions, None)
        self.hook.before(self._slots, actions, rows)
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = np.array([terminated or truncated])
        # A TimeLimit between here and the environment ends an episode that the environment has no record of.
        episodes = [self._slots.last_episodes[0] if self._slots.finish_reasons[0] else None]
        rewards, scored = np.array([float(reward)]), np.array([bool(terminated)])
        paid = self.hook.after(Transition(self._slots, rows, actions, rewards, ended, scored, episodes))
        info.update({key: values[0].item() for key, values in self.hook.infos().items()})
        return observation, float(paid[0]), terminated, truncated, info

    def close(self) -> None:
        """Closes the hook and the environment."""
        self.hook.close()
        super().close()


class VectorHookWrapper(VectorWrapper):
    """A hook around a vector environment.

    Args:
        env: The environment.
        hook: The hook.

    Raises:
        ConfigError: If the environment is none of ours.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], hook: Hook) -> None:
        super().__init__(env)
        self._slots = slots_of(env, type(self).__name__)
        self._base: Any = env.unwrapped
        self.hook = hook
        hook.attach(self._slots)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The wrapped environment's mode, which TorchRL looks for here."""
        return self._base.autoreset_mode

    def __getattr__(self, name: str) -> Any:
        """What the wrapped environment has beyond Gymnasium's interface, e.g. ``last_episodes``."""
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inner_attribute(self.env, name)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:  # fmt: skip
        """Resets the environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        started = infos["_length"].copy()
        self.hook.begin(started & ~self._slots.restored)
        for key, values in self.hook.infos().items():
            infos[key], infos[f"_{key}"] = np.zeros_like(values), started.copy()
        return observations, infos

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps the environment, with the hook around it."""
        actions = check_actions(actions, self.num_envs)
        rows = self._base.taking(actions)
        self._slots.check_actions(actions, rows)
        rows = np.arange(self.num_envs) if rows is None else rows
        self.hook.before(self._slots, actions, rows)
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = terminated | truncated
        episodes = [self._slots.last_episodes[i] if over else None for i, over in enumerate(ended.tolist())]
        paid = self.hook.after(Transition(self._slots, rows, actions, rewards, ended, terminated, episodes))
        for key, values in self.hook.infos().items():
            self._add_infos(infos, key, values, ended)
        return observations, paid, terminated, truncated, infos

    @staticmethod
    def _add_infos(infos: dict[str, Any], key: str, values: NDArray[Any], ended: NDArray[np.bool_]) -> None:
        """Adds one number per slot; after a same-step reset those of ended slots belong to the final info."""
        if "final_info" in infos:
            infos["final_info"][key] = np.where(ended, values, 0)
            infos["final_info"][f"_{key}"] = ended.copy()
            values = np.where(ended, 0, values)
        infos[key], infos[f"_{key}"] = values.copy(), infos["_length"].copy()

    def close(self, **kwargs: Any) -> None:
        """Closes the hook and the environment."""
        self.hook.close()
        self.env.close(**kwargs)
