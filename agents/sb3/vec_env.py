"""Our vector environment as a Stable-Baselines3 ``VecEnv``: one reward call for all the episodes of a step.

SB3's own ``DummyVecEnv`` and ``SubprocVecEnv`` of single environments work too, but score every answer on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from textenv.envs.vector import TextGenerationVectorEnv
from textenv.errors import ConfigError
from textenv.wrappers.base import inner_attribute

_OPTIONS = {"prompt": "prompts", "prompt_index": "prompt_indices", "prefix": "prefixes", "state": "states"}
_LISTED = {"last_episode": "last_episodes"}
_BY_SLOT = ("get_state", "set_state", "fork")


def as_vec_env(envs: VectorEnv[Any, Any, Any]) -> TextVecEnv:
    """A Stable-Baselines3 ``VecEnv`` around a textenv vector environment, wrapped or not.

    Seed for seed, stock algorithms get the same results on it as on SB3's ``DummyVecEnv`` of single environments. For
    episode statistics put SB3's ``VecMonitor`` around it.

    Args:
        envs: What ``gymnasium.make_vec("textenv/…", num_envs=n)`` gave; it is switched to same-step autoreset.

    Raises:
        ConfigError: If it is none of ours, or its observations are texts.
    """
    return TextVecEnv(envs)


class TextVecEnv(VecEnv):
    """See :func:`as_vec_env`.

    Attributes:
        envs: The vector environment with its wrappers.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        core = envs.unwrapped
        if not isinstance(core, TextGenerationVectorEnv):
            raise ConfigError(
                f"as_vec_env takes textenv's own vector environment, got {type(core).__name__}; make it with "
                'gymnasium.make_vec("textenv/…", num_envs=…), or give single environments to SB3\'s DummyVecEnv'
            )
        if isinstance(core.single_observation_space, spaces.Text):
            raise ConfigError('Stable-Baselines3 takes no texts; make the environment with observation="tokens"')
        core.autoreset_mode = AutoresetMode.SAME_STEP
        core.metadata = {**core.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.envs = envs
        self._core = core
        self._actions = np.zeros(core.num_envs, np.int64)
        super().__init__(core.num_envs, envs.single_observation_space, envs.single_action_space)

    # --- episodes -----------------------------------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Start episodes in all slots, with the seeds and options set since the last reset."""
        options: dict[str, list[Any]] = {}
        for slot, given in enumerate(self._options):
            for name, value in given.items():
                if name not in _OPTIONS:
                    raise ConfigError(f"unknown reset option {name!r}; known: {', '.join(_OPTIONS)}")
                options.setdefault(_OPTIONS[name], [None] * self.num_envs)[slot] = value
        # Gymnasium's annotation forgets that vector environments take one seed per slot.
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        observations, infos = self.envs.reset(seed=seeds, options=options or None)
        self.reset_infos = _by_slot(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take note of the next tokens, shape ``(num_envs,)``."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Append a token to every slot; slots whose episode ends begin the next one at once.

        Returns:
            Observations, rewards ``(num_envs,)`` float32, whether the episode ended, and one info per slot: where it
            ended with ``terminal_observation``. ``TimeLimit.truncated`` is True only where something outside the task
            cut the answer off.
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        ended = terminated | truncated
        each = _by_slot(infos, self.num_envs)
        if ended.any():
            last = _by_slot(infos["final_info"], self.num_envs)
            for slot in np.flatnonzero(ended).tolist():
                self.reset_infos[slot] = each[slot]
                each[slot] = {**last[slot], "terminal_observation": infos["final_obs"][slot]}
        for info, cut in zip(each, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        return observations, rewards.astype(np.float32), ended, each

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    # --- what each slot has -------------------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each slot, found in the outermost wrapper that has it.

        What all slots share is listed once for each; ``last_episode`` is each slot's own.

        Raises:
            AttributeError: If no layer has it.
        """
        slots = self._get_indices(indices)
        if attr_name in _LISTED:
            values = inner_attribute(self.envs, _LISTED[attr_name])
            return [values[slot] for slot in slots]
        value = inner_attribute(self.envs, attr_name)
        return [value for _ in slots]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the outermost layer that has it, for all slots.

        Raises:
            AttributeError: If no layer has it.
            ConfigError: If only some slots are meant: they are one environment.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ConfigError(f"all slots share one environment: set {attr_name!r} for all of them (indices=None)")
        layer: Any = self.envs
        while isinstance(layer, VectorWrapper) and attr_name not in {**vars(type(layer)), **vars(layer)}:
            layer = layer.env
        if not hasattr(layer, attr_name):
            raise AttributeError(f"no layer of the environment has an attribute {attr_name!r}")
        setattr(layer, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each slot.

        ``action_masks`` and ``render`` give each slot its row; ``get_state``, ``set_state`` and ``fork`` act on each
        slot; any other method of the vector environment is called once, and its result listed for each slot.

        Raises:
            AttributeError: If no layer has it.
        """
        slots = list(self._get_indices(indices))
        method = inner_attribute(self.envs, method_name)
        if method_name in _BY_SLOT:
            return [method(slot, *method_args, **method_kwargs) for slot in slots]
        per_slot = method(*method_args, **method_kwargs)
        if method_name in ("action_masks", "render") and per_slot is not None:
            return [per_slot[slot] for slot in slots]
        return [per_slot for _ in slots]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether a wrapper of this class stands around the environment, for each slot."""
        layer: Any = self.envs
        while isinstance(layer, VectorWrapper) and not isinstance(layer, wrapper_class):
            layer = layer.env
        return [isinstance(layer, wrapper_class)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One picture per slot, ``(400, 640, 3)`` uint8; None where the render mode is another."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        frames = self._core.render()
        assert frames is not None
        return list(frames)

    def _get_indices(self, indices: VecEnvIndices) -> Iterable[int]:
        return [int(i) % self.num_envs for i in super()._get_indices(indices)]


def _by_slot(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's dictionary of arrays as one dictionary per slot, without what a slot has nothing to say about."""
    per_slot: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") or key in ("final_obs", "final_info"):
            continue
        if isinstance(values, dict):
            columns: list[Any] = _by_slot(values, num_envs)
        else:
            columns = values.tolist() if values.ndim == 1 else list(values)
        present = infos[f"_{key}"]
        for slot in np.flatnonzero(present).tolist():
            per_slot[slot][key] = columns[slot]
    return per_slot
