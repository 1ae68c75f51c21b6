"""The vector form of ``TextGeneration-v0``: many episodes side by side, one reward call per step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textenv.envs.observations import ObservationForm
from textenv.envs.options import IDLE, begin_slot, check_actions, read_options, shared_spec
from textenv.envs.rendering import describe, draw
from textenv.envs.slots import Slots
from textenv.envs.state import EnvState
from textenv.envs.task import GenerationTask, TaskOptions
from textenv.envs.text_generation import RENDER_MODES, derived_generator, restore_rng, with_rng
from textenv.episode import Episode
from textenv.errors import ConfigError
from textenv.prompts import make_dealer


class TextGenerationVectorEnv(VectorEnv[Any, Any, Any]):
    """Many answers at once; slot ``i`` behaves as the ``i``-th environment of Gymnasium's ``SyncVectorEnv``.

    Spaces, rewards, ends and infos are those of :class:`textenv.TextGenerationEnv`, batched: infos are flat arrays
    with ``_key`` masks. All episodes that end in one step are scored by one reward call.

    All three autoreset modes work. In ``DISABLED`` an action of ``textenv.envs.IDLE`` (-1) lets its slot stand still:
    reward 0.0, not ended, observation unchanged, its ``_key`` masks False.

    Reset options are those of the single environment, given to every slot, or lists with one entry (or None) per slot
    as ``prompts``, ``prompt_indices``, ``prefixes`` and ``states``; and ``reset_mask``.

    Args:
        num_envs: Number of slots.
        tokenizer: See :class:`textenv.envs.task.GenerationTask`.
        prompts: What is asked.
        reward: Scores answers.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, as enum or its value.
        prompt_dealing: ``"per_slot"``: every slot deals from its own epoch, as separate environments would;
            ``"shared"``: all slots deal from one epoch, so that no prompt comes twice before all came once.
        render_mode: As in the single environment; ``render`` returns one frame per slot.
        **options: Further arguments of :class:`textenv.envs.task.GenerationTask`.

    Raises:
        ConfigError: If an argument is unusable.
        DataError: If a prompt is unusable.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own form; each environment has a copy of its own
        "render_modes": list(RENDER_MODES),
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        tokenizer: Any,
        prompts: Any,
        reward: Any,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        prompt_dealing: Literal["per_slot", "shared"] = "per_slot",
        render_mode: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode must be one of {RENDER_MODES} or None, got {render_mode!r}")
        if prompt_dealing not in ("per_slot", "shared"):
            raise ConfigError(f"prompt_dealing must be 'per_slot' or 'shared', got {prompt_dealing!r}")
        task = GenerationTask(tokenizer, prompts, reward, **options)
        self._setup(num_envs, task, autoreset_mode, prompt_dealing, render_mode)

    def _setup(
        self,
        num_envs: int,
        task: GenerationTask,
        autoreset_mode: AutoresetMode | str,
        prompt_dealing: Literal["per_slot", "shared"],
        render_mode: str | None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be ≥ 1, got {num_envs}")
        self.num_envs = num_envs
        self.task = task
        self.render_mode = render_mode
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            known = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ConfigError(f"autoreset_mode must be one of {known}, got {autoreset_mode!r}") from error
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.prompt_dealing: Literal["per_slot", "shared"] = prompt_dealing
        self.slots = Slots(num_envs, task)
        self._form = ObservationForm(task)
        self._ended = np.zeros(num_envs, dtype=np.bool_)
        self._rngs: list[np.random.Generator] = []
        self._dealers = [make_dealer(task.prompts) for _ in range(num_envs if prompt_dealing == "per_slot" else 1)]
        self.single_observation_space = self._form.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = spaces.Discrete(task.vocab_size)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def make_room(self, prompt_tokens: int) -> None:
        """Take prompts of up to this many tokens, where nobody has said how long they may be.

        Observations get wider; call it before the first reset.
        """
        if self.task.longest_prompt_given or prompt_tokens <= self.task.max_prompt_tokens:
            return
        self.task.max_prompt_tokens = prompt_tokens
        self.slots.widen()
        self._form = ObservationForm(self.task)
        self.single_observation_space = self._form.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    spec: EnvSpec | None = shared_spec()

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Seeds slot i with seed + i, as SyncVectorEnv does; slots without a seed keep their generators."""
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        elif isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(
                f"there are {len(seeds)} seeds for {self.num_envs} slots; give one number or one per slot"
            )
        if seeds[0] is not None:
            super().reset(seed=seeds[0])
        if self.prompt_dealing == "shared":
            if seeds[0] is not None:
                self._dealers[0].restart()
            return
        if not self._rngs:
            self._rngs = [seeding.np_random(value)[0] for value in seeds]
            return
        for slot, value in enumerate(seeds):
            if value is not None:
                self._rngs[slot] = seeding.np_random(value)[0]
                self._dealers[slot].restart()

    def _deal(self, slot: int) -> int:
        if self.prompt_dealing == "shared":
            return self._dealers[0].deal(self.np_random)
        return self._dealers[slot].deal(self._rngs[slot])

    def _restart(self, slots: NDArray[np.int64]) -> None:
        """Starts the next episode in each of these slots."""
        for slot in slots.tolist():
            self.slots.begin(slot, self.task.prompt(self._deal(slot)))

    # --- Gymnasium ----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts episodes in all slots, or in those of ``options["reset_mask"]``.

        Args:
            seed: Slot i is seeded with ``seed + i``; or one seed per slot.
            options: See the class.

        Raises:
            ConfigError: If an option is unknown or unusable.
            DataError: If a prompt is unusable or too long.
        """
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        starts = read_options(options, self.num_envs)
        self._seed_masked(seed, mask)
        for slot in np.flatnonzero(mask).tolist():
            start = starts[slot]
            dealt = self.task.prompt(self._deal(slot)) if start.deals else None
            begin_slot(self.slots, slot, start, dealt)
            if start.state is not None:
                restore_rng(start.state, *self._dealing(slot))
        self._ended[mask] = self.slots.finish_reasons[mask] != 0
        self._show()
        infos = self._infos(np.zeros(self.num_envs), mask)
        _clear_absent(infos, mask)
        return self._form.batch(self.slots), infos

    def _seed_masked(self, seed: int | Sequence[int | None] | None, mask: NDArray[np.bool_]) -> None:
        """Seeds only the slots that are reset."""
        if seed is not None and not mask.all():
            each = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
            seed = [value if keep else None for value, keep in zip(each, mask, strict=True)]
        self._seed(seed)

    def _reset_mask(self, given: Any) -> NDArray[np.bool_]:
        if given is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(given, np.ndarray) or given.dtype != np.bool_ or given.shape != (self.num_envs,):
            raise ConfigError(f"reset_mask must be a bool array of shape ({self.num_envs},), got {given!r}")
        if not given.any():
            raise ConfigError("reset_mask must be True for at least one slot")
        return given.copy()

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Appends one token to every slot; scores all the answers that end with one reward call.

        Raises:
            gymnasium.error.InvalidAction: If an action is no token, or a masked one; names slot and value.
            gymnasium.error.ResetNeeded: If a slot's episode has ended or never began.
            RewardError: If the reward function fails.
        """
        actions = check_actions(actions, self.num_envs)
        rows = self.taking(actions)
        self.slots.check_actions(actions, rows)
        present = np.ones(self.num_envs, dtype=np.bool_)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            if rows is not None:
                self._restart(np.flatnonzero(self._ended))
        elif rows is not None:
            present[:] = False
            present[rows] = True
        result = self.slots.advance(actions, rows)
        ended = result.terminated | result.truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._same_step(result.scores, ended)
        else:
            infos = self._infos(result.scores, present)
            if self.task.info_level == "full" and ended.any():
                infos["episode_record"], infos["_episode_record"] = self._records(ended)
            self._ended = ended.copy() if self.autoreset_mode is AutoresetMode.NEXT_STEP else self._ended | ended
        self._show()
        return self._form.batch(self.slots), result.rewards, result.terminated, result.truncated, infos

    def taking(self, actions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Slots whose action the next step takes, or None for all: not idle, and not about to be reset.

        Raises:
            gymnasium.error.InvalidAction: If a slot idles and the autoreset mode is not ``DISABLED``.
        """
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            return np.flatnonzero(~self._ended) if self._ended.any() else None
        idle = actions == IDLE
        if not idle.any():
            return None
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            slot = int(np.flatnonzero(idle)[0])
            raise InvalidAction(f"action {IDLE} (idle) of slot {slot} needs AutoresetMode.DISABLED")
        return np.flatnonzero(~idle)

    def _infos(self, scores: NDArray[np.float64], present: NDArray[np.bool_]) -> dict[str, Any]:
        """Flat infos with their masks, arrays new on every call."""
        infos: dict[str, Any] = {}
        for key, values in (*self.slots.snapshot().items(), ("score", scores.copy())):
            infos[key] = values
            infos[f"_{key}"] = present.copy()
        return infos

    def _records(self, ended: NDArray[np.bool_]) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
        records = np.full(self.num_envs, None, dtype=object)
        for slot in np.flatnonzero(ended).tolist():
            records[slot] = self.slots.last_episodes[slot]
        return records, ended.copy()

    def _same_step(self, scores: NDArray[np.float64], ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Resets the slots that ended; their last observation and info survive as ``final_obs`` and ``final_info``."""
        if not ended.any():
            return self._infos(scores, np.ones(self.num_envs, dtype=np.bool_))
        slots = np.flatnonzero(ended)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for slot in slots.tolist():
            final_obs[slot] = self._form.single(self.slots, slot)
        final_info = self._infos(scores, ended)
        _clear_absent(final_info, ended)
        if self.task.info_level == "full":
            final_info["episode_record"], final_info["_episode_record"] = self._records(ended)
        self._restart(slots)
        infos = self._infos(np.where(ended, 0.0, scores), np.ones(self.num_envs, dtype=np.bool_))
        infos.update(final_obs=final_obs, _final_obs=ended.copy(), final_info=final_info, _final_info=ended.copy())
        return infos

    def render(self) -> tuple[Any, ...] | None:
        """One frame per slot; see the single environment."""
        if self.render_mode == "ansi":
            return tuple(describe(self.slots, slot) for slot in range(self.num_envs))
        if self.render_mode == "rgb_array":
            return tuple(draw(describe(self.slots, slot)) for slot in range(self.num_envs))
        return None

    def _show(self) -> None:
        if self.render_mode == "human":
            for slot in range(self.num_envs):
                sys.stdout.write(f"[{slot}] {describe(self.slots, slot)}\n\n")

    # --- beyond Gymnasium ---------------------------------------------------------------------------------------------

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each slot's row, shape ``(num_envs,)``; a copy."""
        return self.slots.lengths.copy()

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """Prompt tokens in each slot's row, shape ``(num_envs,)``; a copy."""
        return self.slots.prompt_lengths.copy()

    @property
    def last_episodes(self) -> list[Episode | None]:
        """The latest finished episode of each slot."""
        return list(self.slots.last_episodes)

    @property
    def pad_token_id(self) -> int:
        """Id that fills up observations; ``len(tokenizer)`` where the tokenizer has none of its own."""
        return self.task.pad_token_id

    def action_masks(self) -> NDArray[np.bool_]:
        """True for tokens that each slot may choose now, shape ``(num_envs, vocab_size)``."""
        return self.slots.action_masks()

    def get_state(self, slot: int, *, include_rng: bool = False) -> EnvState:
        """Where a slot's episode stands; O(tokens so far), no model call.

        Args:
            slot: The slot.
            include_rng: Also its place in the order of prompts, so that later prompts repeat too.

        Raises:
            gymnasium.error.ResetNeeded: If the slot was never reset.
        """
        state = self.slots.get_state(slot)
        return with_rng(state, *self._dealing(slot)) if include_rng else state

    def set_state(self, slot: int, state: EnvState) -> None:
        """Puts a slot where a saved episode stood, of this slot, another, or a single environment.

        Raises:
            ConfigError: If the state does not fit this environment.
        """
        self.slots.set_state(slot, state)
        self._ended[slot] = self.slots.finish_reasons[slot] != 0
        restore_rng(state, *self._dealing(slot))

    def _dealing(self, slot: int) -> tuple[np.random.Generator, Any]:
        if self.prompt_dealing == "shared":
            return self.np_random, self._dealers[0]
        if not self._rngs:
            self._seed(None)
        return self._rngs[slot], self._dealers[slot]

    def fork(self, slot: int, n: int) -> TextGenerationVectorEnv:
        """A vector environment of ``n`` slots that all stand where this slot stands; this one is left untouched.

        Tokenizer, prompts and reward are shared. Fork ``i`` deals its later prompts from a stream of its own,
        derived from this slot's generator and ``i``. To branch inside this environment instead, pass
        :meth:`get_state`'s result to :meth:`set_state`.

        Raises:
            ConfigError: If n is below 1.
        """
        fork = type(self).__new__(type(self))
        fork.__dict__.update(self.__dict__)  # what subclasses hold is shared
        fork._setup(n, self.task, self.autoreset_mode, self.prompt_dealing, self.render_mode)
        rng = self._dealing(slot)[0]
        fork.np_random = derived_generator(rng, 0)
        fork._rngs = [derived_generator(rng, i) for i in range(n)]
        state = self.slots.get_state(slot)
        for i in range(n):
            fork.set_state(i, state)
        return fork


def _clear_absent(infos: dict[str, Any], present: NDArray[np.bool_]) -> None:
    """Sets flat infos to 0 where their slot has nothing to say, as SyncVectorEnv does."""
    for key, values in infos.items():
        if not key.startswith("_"):
            values[~present] = 0
