"""``TextGeneration-v0``: one episode of text generation as a Gymnasium environment."""

from __future__ import annotations

import sys
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from textenv.envs.observations import ObservationForm
from textenv.envs.options import begin_slot, check_action, read_options, shared_spec
from textenv.envs.rendering import describe, draw
from textenv.envs.slots import Slots
from textenv.envs.state import EnvState
from textenv.envs.task import GenerationTask, TaskOptions
from textenv.episode import Episode
from textenv.errors import ConfigError
from textenv.prompts import make_dealer

RENDER_MODES = ("ansi", "human", "rgb_array")


class TextGenerationEnv(gym.Env[Any, Any]):
    """Write an answer to a prompt, one token per step.

    *Action*: ``Discrete(vocab_size)``, the next token.

    *Observation*: prompt and answer so far; by default one ``Box`` of token ids ``(max_prompt_tokens +
    max_new_tokens,)`` int64, right-padded (see ``textenv.envs.observations``).

    *Reward*: 0 until the episode ends, then the reward function's score; it is final. A dense score's sum is paid at
    the end (its tokens are known only then; ``Episode.rewards`` has the positions), a ``token_reward`` at once.

    *Start*: ``reset`` deals the next prompt, without replacement inside an epoch; ``seed`` decides the order.

    *End*: ``terminated`` by an end-of-sequence token, a stop string or ``max_new_tokens``: all are part of the task
    and are scored. ``truncated`` where something outside the task cut the episode off (``max_episode_steps``, a
    full context, ``on_length_limit="truncate"``): nothing is paid.

    *Info*: numbers, the same keys at every reset and step: ``finish_reason`` (:class:`textenv.FinishReason`),
    ``score``, ``response_tokens``, ``length`` (tokens in the observation), ``prompt_tokens``, ``prompt_index``. With
    ``info_level="full"`` the last step's info also holds the :class:`textenv.Episode` as ``episode_record``; it can
    always be had from ``env.get_wrapper_attr("last_episode")``.

    *Reset options*: ``prompt``, ``prompt_index``, ``prefix`` (tokens or text that count as already answered) or
    ``state`` (an :class:`EnvState`).

    Args:
        tokenizer: See :class:`textenv.envs.task.GenerationTask`, as for all arguments but the last.
        prompts: What is asked.
        reward: Scores answers.
        render_mode: ``"ansi"``, ``"human"``, ``"rgb_array"`` or None.
        **options: Further arguments of :class:`textenv.envs.task.GenerationTask`.

    Raises:
        ConfigError: If an argument is unusable.
        DataError: If a prompt is unusable.

    Version history: v0, the first.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 8}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        tokenizer: Any,
        prompts: Any,
        reward: Any,
        *,
        render_mode: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode must be one of {RENDER_MODES} or None, got {render_mode!r}")
        self._setup(GenerationTask(tokenizer, prompts, reward, **options), render_mode)

    def _setup(self, task: GenerationTask, render_mode: str | None) -> None:
        self.task = task
        self.render_mode = render_mode
        self.slots = Slots(1, task)
        self._form = ObservationForm(task)
        self._dealer = make_dealer(task.prompts)
        self.observation_space = self._form.space
        self.action_space = spaces.Discrete(task.vocab_size)

    spec: EnvSpec | None = shared_spec()

    # --- Gymnasium ----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode with the next prompt, or as the options say.

        Args:
            seed: Restarts the order of prompts.
            options: See the class.

        Raises:
            ConfigError: If an option is unknown or unusable.
            DataError: If the prompt is unusable or too long.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._dealer.restart()
        start = read_options(options, 1)[0]
        dealt = self.task.prompt(self._dealer.deal(self.np_random)) if start.deals else None
        begin_slot(self.slots, 0, start, dealt)
        if start.state is not None:
            restore_rng(start.state, self.np_random, self._dealer)
        self._show()
        return self._form.single(self.slots, 0), self._info(0.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Appends a token; scores the answer if it ends the episode.

        Raises:
            gymnasium.error.InvalidAction: If the action is no token, or an end-of-sequence token that comes too early.
            gymnasium.error.ResetNeeded: If the episode has ended or never began.
            RewardError: If the reward function fails.
        """
        actions = np.array([check_action(action)])
        self.slots.check_actions(actions, None)
        result = self.slots.advance(actions)
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        info = self._info(float(result.scores[0]))
        if self.task.info_level == "full" and (terminated or truncated):
            info["episode_record"] = self.slots.last_episodes[0]
        self._show()
        return self._form.single(self.slots, 0), float(result.rewards[0]), terminated, truncated, info

    def _info(self, score: float) -> dict[str, Any]:
        slots = self.slots
        return {
            "finish_reason": int(slots.finish_reasons[0]),
            "score": score,
            "response_tokens": int(slots.response_tokens[0]),
            "length": int(slots.lengths[0]),
            "prompt_tokens": int(slots.prompt_lengths[0]),
            "prompt_index": int(slots.prompt_indices[0]),
        }

    def render(self) -> Any:
        """The episode as text (``ansi``) or picture (``rgb_array``, ``(400, 640, 3)`` uint8); ``human`` shows it."""
        if self.render_mode == "ansi":
            return describe(self.slots, 0)
        if self.render_mode == "rgb_array":
            return draw(describe(self.slots, 0))
        return None

    def _show(self) -> None:
        if self.render_mode == "human":
            sys.stdout.write(describe(self.slots, 0) + "\n\n")

    def close(self) -> None:
        """Nothing to release; may be called again and again."""

    # --- beyond Gymnasium ---------------------------------------------------------------------------------------------

    @property
    def last_episode(self) -> Episode | None:
        """The latest finished episode."""
        return self.slots.last_episodes[0]

    @property
    def pad_token_id(self) -> int:
        """Id that fills up observations; ``len(tokenizer)`` where the tokenizer has none of its own."""
        return self.task.pad_token_id

    def action_masks(self) -> NDArray[np.bool_]:
        """True for tokens that may be chosen now, shape ``(vocab_size,)``; sb3-contrib asks for it."""
        return self.slots.action_masks()[0]

    def get_state(self, *, include_rng: bool = False) -> EnvState:
        """Where the episode stands; O(tokens so far), no model call.

        Args:
            include_rng: Also the generator's state and the place in the epoch, so that later prompts repeat too.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset.
        """
        return (
            with_rng(self.slots.get_state(0), self.np_random, self._dealer) if include_rng else self.slots.get_state(0)
        )

    def set_state(self, state: EnvState) -> None:
        """Goes on from a saved state: the same actions then give bit-identical observations and rewards.

        Raises:
            ConfigError: If the state does not fit this environment.
        """
        self.slots.set_state(0, state)
        restore_rng(state, self.np_random, self._dealer)

    def fork(self, n: int) -> list[TextGenerationEnv]:
        """``n`` environments that stand where this one stands and share its tokenizer, prompts and reward.

        This one is left untouched. Fork ``i`` deals its later prompts from a stream of its own, derived from this
        environment's generator and ``i``.

        Raises:
            ConfigError: If n is below 1.
        """
        if n < 1:
            raise ConfigError(f"fork needs n ≥ 1, got {n}")
        state = self.slots.get_state(0)
        forks = []
        for i in range(n):
            fork = type(self).__new__(type(self))
            fork.__dict__.update(self.__dict__)  # what subclasses hold is shared
            fork._setup(self.task, self.render_mode)
            fork.slots.set_state(0, state)
            fork.np_random = derived_generator(self.np_random, i)
            forks.append(fork)
        return forks


def with_rng(state: EnvState, rng: np.random.Generator, dealer: Any) -> EnvState:
    """The state, with the place in the order of prompts."""
    import dataclasses

    return dataclasses.replace(state, rng_state=rng.bit_generator.state, dealer_state=dealer.get_state())


def restore_rng(state: EnvState, rng: np.random.Generator, dealer: Any) -> None:
    """Restores the place in the order of prompts, where the state holds one."""
    if state.rng_state is not None:
        rng.bit_generator.state = state.rng_state
    if state.dealer_state is not None:
        dealer.set_state(state.dealer_state)


def derived_generator(rng: np.random.Generator, stream: int) -> np.random.Generator:
    """A generator that depends on another's state and a number, without advancing the other."""
    inner = rng.bit_generator.state["state"]
    return np.random.default_rng([int(inner["state"]), int(inner["inc"]), stream])
