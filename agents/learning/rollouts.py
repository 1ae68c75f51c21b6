"""Episodes from a vector environment, stepped token by token with a KV cache.

Nothing is generated elsewhere and replayed: every token goes through ``envs.step``, so wrappers, token rewards and
responders hold for the native learners as they do for anybody else's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from textenv.envs import IDLE, TextGenerationVectorEnv
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, DataError, RunCheckError
from textenv.prompts import make_dealer
from textenv.rewards import LazyReward
from textenv.sampling.encoder_decoder import EncoderDecoderEngine
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import Draw, draw, trajectory_uniforms
from textenv.wrappers.base import evaluation


@dataclass
class Rollout:
    """Finished episodes in rows, right-padded.

    Attributes:
        tokens: Prompt and answer, int64, shape ``(N, L)``.
        prompt_lengths: Shape ``(N,)``.
        lengths: Prompt and answer together, shape ``(N,)``.
        action_mask: True on answer tokens that the policy chose, shape ``(N, T)``.
        rewards: What the environment paid for each answer token, shape ``(N, T)``.
        behaviour_logprobs: Of the chosen tokens when they were drawn, nats, shape ``(N, T)``.
        allowed: Bit-packed masks of the tokens that could be chosen, uint8, shape ``(N, T, ceil(V / 8))``; None where
            nothing restricts them.
        truncated: True where something outside the task cut the episode off, shape ``(N,)``.
        episodes: The environment's records, one per row.
        seconds: Wall-clock time of collecting, reward calls included.
        environment_seconds: The part of it that was spent in the environment: nearly all of that is the reward's.
    """

    tokens: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    lengths: NDArray[np.int64]
    action_mask: NDArray[np.bool_]
    rewards: NDArray[np.floating[Any]]
    behaviour_logprobs: NDArray[np.float32]
    allowed: NDArray[np.uint8] | None
    truncated: NDArray[np.bool_]
    episodes: list[Episode]
    seconds: float
    environment_seconds: float = 0.0

    @property
    def scores(self) -> NDArray[np.float64]:
        """Reward-model score of each episode, shape ``(N,)``; 0 where there is none, see :attr:`scored`."""
        return np.array([episode.score for episode in self.episodes])

    @property
    def scored(self) -> NDArray[np.bool_]:
        """True where the reward function was asked: an answer without a score is none, shape ``(N,)``."""
        return np.array([episode.scored for episode in self.episodes], np.bool_)

    def counted(self, *, uses_critic: bool) -> NDArray[np.bool_]:
        """True on the rows that an update learns from, shape ``(N,)``.

        Args:
            uses_critic: A critic says what an answer that was cut off is worth, so all rows count. Without one, those
                that were not scored are left out.
        """
        return np.ones(len(self.episodes), np.bool_) if uses_critic else self.scored

    @property
    def action_tokens(self) -> int:
        """Tokens that the policy chose, in all."""
        return int(self.action_mask.sum())

    @property
    def cut(self) -> NDArray[np.bool_]:
        """True where the length limit ended the answer, shape ``(N,)``."""
        return np.array([episode.finish_reason is FinishReason.LENGTH for episode in self.episodes])

    def batch(self, rows: NDArray[np.int64], device: Any = "cpu") -> SequenceBatch:
        """Some of the rows as the policy reads them."""
        return SequenceBatch.from_arrays(
            self.tokens[rows],
            self.prompt_lengths[rows],
            self.lengths[rows],
            self.action_mask[rows],
            None if self.allowed is None else self.allowed[rows],
            device=device,
        )


class PromptOrder:
    """Which prompts come next: without replacement inside an epoch, the same on every process of a run.

    The learner deals the prompts itself, so that several answers can share one and several processes one order.

    Args:
        source: The environment's prompts.
        seed: Decides the order.
    """

    def __init__(self, source: Any, seed: int) -> None:
        self._dealer = make_dealer(source)
        self._rng = np.random.default_rng(seed)
        self._given_back: list[int] = []

    def deal(self, count: int, group_size: int = 1) -> NDArray[np.int64]:
        """Indices of the next prompts, each ``group_size`` times in a row, ``count`` in all."""
        number = count // group_size
        first, self._given_back = self._given_back[:number], self._given_back[number:]
        return np.repeat([*first, *(self._dealer.deal(self._rng) for _ in range(number - len(first)))], group_size)

    def give_back(self, dealt: NDArray[np.int64], group_size: int = 1) -> None:
        """Deal these again, before any other: nobody has learned from them."""
        self._given_back = dealt[::group_size].tolist() + self._given_back

    def get_state(self) -> dict[str, Any]:
        """Place in the order, JSON-able."""
        return {
            "rng": self._rng.bit_generator.state,
            "dealer": self._dealer.get_state(),
            "given_back": list(self._given_back),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`get_state` was called.

        Raises:
            ConfigError: If the state belongs to other prompts.
        """
        self._dealer.set_state(state["dealer"])
        self._rng.bit_generator.state = state["rng"]
        self._given_back = [int(index) for index in state.get("given_back", [])]


def take_over(envs: VectorEnv) -> TextGenerationVectorEnv:
    """Switch a vector environment to ``AutoresetMode.DISABLED``, in which a learner decides when slots restart.

    Raises:
        ConfigError: If it is not textenv's own vector environment underneath.
    """
    core = envs.unwrapped
    if not isinstance(core, TextGenerationVectorEnv):
        raise ConfigError(
            f"the native learners step textenv's own vector environment, got {type(core).__name__}; make it with "
            'gymnasium.make_vec("textenv/TextGeneration-v0", num_envs=…, vectorization_mode="vector_entry_point", …)'
        )
    core.autoreset_mode = AutoresetMode.DISABLED
    core.metadata = {**core.metadata, "autoreset_mode": AutoresetMode.DISABLED}
    return core


def layers(envs: Any) -> list[Any]:
    """A vector environment's wrappers from the outermost in, and the environment itself at the end."""
    outside_in = [envs]
    while isinstance(outside_in[-1], VectorWrapper):
        outside_in.append(outside_in[-1].env)
    return outside_in


class Collector:
    """Plays one episode in every slot of a vector environment.

    Args:
        policy: Acts.
        envs: textenv's vector environment, wrapped or not.
        temperature: Divides the logits.
        seed: Of the draws; an episode's randomness depends on the seed and its number alone.

    Raises:
        ConfigError: If the environment is not textenv's, or its vocabulary is not the policy's.
    """

    def __init__(self, policy: CausalLMPolicy, envs: VectorEnv, *, temperature: float, seed: int) -> None:
        self.policy = policy
        self.envs = envs
        self.core = take_over(envs)
        self.core.task.adopt(policy.answer)
        self.params = SamplingParams(temperature=temperature, max_new_tokens=self.core.task.max_new_tokens)
        self.seed = seed
        ours, theirs = self.core.task.vocabulary, policy.answers.vocabulary
        if ours.size != theirs.size or not np.array_equal(ours.absent, theirs.absent):
            raise ConfigError(
                f"the environment's vocabulary has {ours} tokens, the policy's {theirs}; make the environment with the "
                "policy's tokenizer"
            )
        # Outermost first: a wrapper's mask includes those inside it.
        masking = [layer for layer in layers(envs) if hasattr(type(layer), "action_masks")]
        restricted = masking[0] is not self.core or self.core.task.min_new_tokens > 0
        # Without a mask of its own the environment allows what the policy can say, the pad token included.
        allowed_by_task = partial(self.core.slots.action_masks, padding=True)
        masks = allowed_by_task if masking[0] is self.core else masking[0].action_masks
        self._token_masks = masks if restricted else None
        self.engine = policy.slot_engine(envs.num_envs, self.core.slots.tokens.shape[1])

    def collect(self, first_episode: int, prompts: NDArray[np.int64] | None = None) -> Rollout:
        """Reset every slot, play all episodes to their end.

        Args:
            first_episode: Number of the first of these episodes in the run; decides the draws.
            prompts: Index of each slot's prompt, shape ``(num_envs,)``; None lets the environment deal them.

        Returns:
            ``num_envs`` finished episodes.

        Raises:
            RunCheckError: If the environment holds other tokens than the policy sent, or logits are NaN.
            RewardError: If the reward function fails.
        """
        count = self.envs.num_envs
        options = None if prompts is None else {"prompt_indices": prompts.tolist()}
        numbers = first_episode + np.arange(count)
        return self._play(options, np.arange(count), trajectory_uniforms(self.seed, numbers, self._steps), self.params)

    def play(
        self,
        prompts: Sequence[Any],
        *,
        n: int = 1,
        seed: int = 0,
        params: SamplingParams | None = None,
        reward: Any = None,
    ) -> list[Rollout]:
        """Play the environment on prompts of one's own, without changing anything that training depends on.

        Args:
            prompts: In any form that the environment takes.
            n: Answers to each prompt.
            seed: Answer number j to prompt number i is drawn as :func:`textenv.sampling.generate` draws it.
            params: How tokens are drawn; None draws as in training.
            reward: Scores the answers; None takes the environment's reward.

        Returns:
            Finished episodes, the answers to one prompt next to each other, up to ``num_envs`` a rollout.

        Raises:
            ConfigError: If the settings say something else about where answers end than the environment does.
            DataError: If a prompt is unusable.
            RewardError: If the reward function fails.
        """
        task, count = self.core.task, self.envs.num_envs
        jobs = [(prompt, i + (j << 32)) for i, prompt in enumerate(prompts) for j in range(n)]
        rollouts = []
        before = task.reward
        task.reward = before if reward is None else LazyReward(reward)
        try:
            with evaluation(self.envs):
                for first in range(0, len(jobs), count):
                    part = jobs[first : first + count]
                    rows, mask = np.arange(len(part)), np.arange(count) < len(part)
                    slot_prompts = [prompt for prompt, _ in part] + [None] * (count - len(part))
                    uniforms = trajectory_uniforms(seed, np.array([key for _, key in part]), self._steps)
                    options = {"prompts": slot_prompts, "reset_mask": mask}
                    rollouts.append(self._play(options, rows, uniforms, self._of_play(params)))
        finally:
            task.reward = before
        return rollouts

    @property
    def _steps(self) -> int:
        return self.core.task.max_new_tokens

    def _of_play(self, params: SamplingParams | None) -> SamplingParams:
        """Sampling settings for the environment's own kind of answer.

        Raises:
            ConfigError: If they ask for another kind.
        """
        if params is None:
            return self.params
        answer = self.core.task.answer
        for name, ours in (
            ("max_new_tokens", self._steps),
            ("min_new_tokens", answer.min_new_tokens),
            ("stop", answer.stop),
            ("eos_token_id", answer.eos_token_ids),
        ):
            if getattr(params, name) not in (None, ours):
                raise ConfigError(
                    f"the environment decides where answers end: its `{name}` is {ours!r}, the sampling settings say "
                    f"{getattr(params, name)!r}; leave it out of them"
                )
        return replace(params, max_new_tokens=self._steps, min_new_tokens=None)

    def _play(
        self,
        options: dict[str, Any] | None,
        playing: NDArray[np.int64],
        uniforms: NDArray[np.float64],
        params: SamplingParams,
    ) -> Rollout:
        """One episode in each of these slots.

        Args:
            options: Of the environment's reset.
            playing: Slots, the first ones, shape ``(N,)``.
            uniforms: Of their draws, shape ``(N, max_new_tokens)``.
            params: How tokens are drawn.
        """
        began = time.monotonic()
        self.engine.drop()
        count = self.envs.num_envs
        self.envs.reset(options=options)
        slots = self.core.slots
        self._check_prompts(playing)
        if isinstance(self.engine, EncoderDecoderEngine):
            self.engine.prompt_lengths = slots.prompt_lengths
        width = slots.tokens.shape[1] - int(slots.prompt_lengths[playing].min())
        taken = np.full((count, width), IDLE, np.int64)
        rewards, behaviour = np.zeros((2, count, width), np.float32)
        truncated = np.zeros(count, np.bool_)
        allowed = None
        if self._token_masks is not None:
            allowed = np.full((count, width, -(-self.policy.vocab_size // 8)), 255, np.uint8)
        running, step, inside = playing, 0, 0.0
        while len(running):
            before = slots.lengths[running].copy()
            logits = self.engine.logits(slots.tokens[running], before, running)[:, : self.policy.vocab_size]
            places = before - slots.prompt_lengths[running]
            mask = None
            if allowed is not None and self._token_masks is not None:
                chosen = self._token_masks()[running, : self.policy.vocab_size]
                allowed[running, places] = np.packbits(chosen, axis=1)
                mask = torch.as_tensor(chosen, device=logits.device)
            drawn = self._draw(logits, params, uniforms[running, step], mask, running)
            actions = np.full(count, IDLE, np.int64)
            actions[running] = drawn.tokens.cpu().numpy()
            stepped = time.monotonic()
            _, paid, terminated, cut, _ = self.envs.step(actions)
            inside += time.monotonic() - stepped
            taken[running, places] = actions[running]
            rewards[running, places] = paid[running]
            behaviour[running, places] = drawn.behaviour_logprobs.cpu().numpy()
            truncated |= cut
            running = running[~(terminated | cut)[running]]
            step += 1
        rollout = self._rollout(playing, taken, rewards, behaviour, allowed, truncated, time.monotonic() - began)
        return replace(rollout, environment_seconds=inside)

    def _check_prompts(self, playing: NDArray[np.int64]) -> None:
        """Refuse prompts with tokens that the model does not have.

        Raises:
            DataError: Naming the first one.
        """
        for slot in playing.tolist():
            prompt = self.core.slots.prompts[slot]
            if prompt is not None and max(prompt.ids) >= self.policy.vocab_size:
                raise DataError(
                    f"prompt {prompt.index} ({prompt.text[:40]!r}) contains the id {max(prompt.ids)}; the policy's "
                    f"model has the tokens 0 … {self.policy.vocab_size - 1}"
                )

    def _draw(
        self,
        logits: torch.Tensor,
        params: SamplingParams,
        uniforms: NDArray[np.float64],
        mask: torch.Tensor | None,
        rows: NDArray[np.int64],
    ) -> Draw:
        slots = self.core.slots
        history = None if params.repetition_penalty == 1 else (slots.tokens[rows], slots.lengths[rows])
        try:
            return draw(logits, params, uniforms, allowed=mask, history=history)
        except ConfigError as error:  # the logits of some row are NaN
            finite = torch.isfinite(logits if mask is None else logits.masked_fill(~mask, 0.0)).all(1)
            slot = int(rows[int((~finite).nonzero()[0]) if not bool(finite.all()) else 0])
            prompt = self.core.slots.prompts[slot]
            named = "" if prompt is None else f", prompt {prompt.text[:60]!r}"
            raise RunCheckError(f"{error}; in slot {slot}{named}") from error

    def _rollout(
        self,
        playing: NDArray[np.int64],
        taken: NDArray[np.int64],
        rewards: NDArray[np.float32],
        behaviour: NDArray[np.float32],
        allowed: NDArray[np.uint8] | None,
        truncated: NDArray[np.bool_],
        seconds: float,
    ) -> Rollout:
        slots, count = self.core.slots, len(playing)
        tokens, lengths = slots.tokens[:count].copy(), slots.lengths[:count].copy()
        prompt_lengths = slots.prompt_lengths[:count].copy()
        taken, rewards, behaviour, truncated = taken[:count], rewards[:count], behaviour[:count], truncated[:count]
        chosen = taken != IDLE
        rows, steps = chosen.nonzero()
        if (tokens[rows, prompt_lengths[rows] + steps] != taken[rows, steps]).any():
            raise RunCheckError("the environment holds other tokens than the policy sent; sampled ids were re-encoded")
        longest = int((lengths - prompt_lengths).max())
        episodes = [episode for episode in self.core.last_episodes[:count] if episode is not None]
        self._spread_dense(rewards, chosen, episodes)
        return Rollout(
            tokens=tokens,
            prompt_lengths=prompt_lengths,
            lengths=lengths,
            action_mask=chosen[:, :longest],
            rewards=rewards[:, :longest],
            behaviour_logprobs=behaviour[:, :longest],
            allowed=None if allowed is None else allowed[:count, :longest],
            truncated=truncated,
            episodes=episodes,
            seconds=seconds,
        )

    def _spread_dense(self, rewards: NDArray[np.float32], chosen: NDArray[np.bool_], episodes: list[Episode]) -> None:
        """Move what a dense reward function gave to earlier tokens from the last step, where it was paid, to them.

        An episode's sum stays what the wrappers made of it. A reward on a token of the responder goes to the policy's
        token before it.
        """
        for row, episode in enumerate(episodes):
            if episode.rewards is None or episode.finish_reason is FinishReason.ABORTED:
                continue
            start, end = self.core.slots.prompt_lengths[row], self.core.slots.lengths[row]
            paid = np.zeros(end - start) if self.core.slots.paid is None else self.core.slots.paid[row, start:end]
            early = (np.array(episode.rewards) - paid)[:-1]
            taken = np.flatnonzero(chosen[row])
            holder = taken[np.maximum(np.searchsorted(taken, np.arange(len(early)), side="right") - 1, 0)]
            np.add.at(rewards[row], holder, early.astype(np.float32))
            rewards[row, taken[-1]] -= np.float32(early.sum())
