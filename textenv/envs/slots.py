"""The heart of the environments: the state of many episodes side by side, advanced one token at a time.

Both environments stand on this class, the single one with one slot. State is kept in arrays over slots and a step
touches them as arrays; Python looks at single slots only where an episode ends or a stop string could match.

Left out on purpose: dealing prompts and autoreset (the environments), and what observations look like.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import NDArray

from textenv.answers import EncodedText
from textenv.envs.state import EnvState
from textenv.envs.task import EncodedPrompt, GenerationTask, TokenStep
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, ShapeError
from textenv.rewards import score_episodes, with_score

RUNNING, EOS, STOP, LENGTH, ABORTED = (int(reason) for reason in FinishReason)


class StepResult(NamedTuple):
    """What one step gave, each an array over slots, new on every call."""

    rewards: NDArray[np.float64]
    scores: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class EpisodeKeeper(Protocol):
    """Knows something of the episode that runs in each slot."""

    def read_episode(self, slot: int) -> Any:
        """What it knows of a slot's episode, JSON-able."""
        ...

    def write_episode(self, slot: int, known: Any) -> None:
        """Puts back what :meth:`read_episode` gave; None where nothing was saved."""
        ...


class Slots:
    """Episodes side by side.

    Args:
        num_slots: How many.
        task: What an episode is.

    Attributes:
        tokens: Prompt and answer of each slot, right-padded, shape ``(num_slots, L)`` int64.
        lengths: Tokens in each row, shape ``(num_slots,)``.
        prompt_lengths: Prompt tokens in each row.
        prompt_indices: Index of each slot's prompt in the prompt source.
        response_tokens: Tokens that the policy chose in the running (or just finished) episode.
        finish_reasons: :class:`textenv.FinishReason` codes.
        turns: Turns of the policy, the running one included.
        turn_starts: Position in each row where the policy's running turn begins.
        action_mask: True on the policy's tokens, shape ``(num_slots, L)``; None without a responder.
        paid: Token rewards by position, shape ``(num_slots, L)``; None without a token reward.
        restored: True where a slot's episode was put there as a saved state.
        hooks: Wrappers that know something of each running episode, by name; their part of a state is read and written
            with it.
        version: Counts changes of the state, so that others can tell when what they computed from it is stale.
        returns: Rewards paid so far in the running (or just finished) episode.
        last_episodes: Latest finished episode of each slot, or None.
    """

    def __init__(self, num_slots: int, task: GenerationTask) -> None:
        self.num_slots = num_slots
        self.task = task
        shape = (num_slots, task.max_length)
        self.tokens = np.full(shape, task.pad_token_id, dtype=np.int64)
        self.lengths = np.zeros(num_slots, dtype=np.int64)
        self.prompt_lengths = np.zeros(num_slots, dtype=np.int64)
        self.prompt_indices = np.full(num_slots, -1, dtype=np.int64)
        self.response_tokens = np.zeros(num_slots, dtype=np.int64)
        self.steps = np.zeros(num_slots, dtype=np.int64)
        self.finish_reasons = np.full(num_slots, ABORTED, dtype=np.int64)  # nothing runs before the first reset
        self.turns = np.ones(num_slots, dtype=np.int64)
        self.returns = np.zeros(num_slots)
        self.prompts: list[EncodedPrompt | None] = [None] * num_slots
        self.last_episodes: list[Episode | None] = [None] * num_slots
        self.turn_starts = np.zeros(num_slots, dtype=np.int64)
        self.action_mask = None if task.responder is None else np.zeros(shape, dtype=np.bool_)
        self.paid = None if task.token_reward is None else np.zeros(shape)
        self.restored = np.zeros(num_slots, dtype=np.bool_)
        self.hooks: dict[str, EpisodeKeeper] = {}
        self.version = 0
        self._every_slot = np.arange(num_slots)

    def widen(self) -> None:
        """Make room for as many tokens as the task allows by now."""
        more = ((0, 0), (0, self.task.max_length - self.tokens.shape[1]))
        self.tokens = np.pad(self.tokens, more, constant_values=self.task.pad_token_id)
        self.action_mask = None if self.action_mask is None else np.pad(self.action_mask, more)
        self.paid = None if self.paid is None else np.pad(self.paid, more)
        self.version += 1

    # --- beginning ----------------------------------------------------------------------------------------------------

    def begin(self, slot: int, prompt: EncodedPrompt, prefix: Sequence[int] = ()) -> None:
        """Starts an episode in a slot.

        Args:
            slot: The slot.
            prompt: Its prompt.
            prefix: Tokens that count as already chosen by the policy.

        Raises:
            ConfigError: If the prefix ends the episode, is too long, or holds an id that is no token.
        """
        task = self.task
        if len(prefix) >= task.max_new_tokens:
            raise ConfigError(
                f"the prefix has {len(prefix)} tokens, but only max_new_tokens - 1 = {task.max_new_tokens - 1} "
                "leave room for an action"
            )
        for token in prefix:
            if not 0 <= token < task.num_tokens or task.is_eos[token] or token in task.vocabulary.absent:
                raise ConfigError(f"the prefix holds {token}, which is no token of an answer that goes on")
        if task.stops is not None and prefix:
            text = task.answers.decode_after(prompt.ids, prefix)
            if task.stops.cut(text) != text and len(prefix) >= task.min_new_tokens:
                raise ConfigError(f"the prefix {text[:60]!r} holds a stop string, so its answer has ended already")
        start = len(prompt.ids)
        end = start + len(prefix)
        row = self.tokens[slot]
        row[:start] = prompt.ids
        row[start:end] = prefix
        row[end:] = task.pad_token_id
        self.version += 1
        self.lengths[slot] = end
        self.prompt_lengths[slot] = start
        self.prompt_indices[slot] = prompt.index
        self.response_tokens[slot] = len(prefix)
        self.steps[slot] = 0
        self.restored[slot] = False
        self.finish_reasons[slot] = RUNNING
        self.turns[slot] = 1
        self.returns[slot] = 0.0
        self.prompts[slot] = prompt
        self.turn_starts[slot] = start
        if self.action_mask is not None:
            self.action_mask[slot] = False
            self.action_mask[slot, start:end] = True
        if self.paid is not None:
            self.paid[slot] = 0.0

    # --- checking actions ---------------------------------------------------------------------------------------------

    def check_actions(self, actions: NDArray[np.int64], rows: NDArray[np.int64] | None) -> None:
        """Refuses actions that cannot be taken, before anything has changed.

        Args:
            actions: One per slot, shape ``(num_slots,)``.
            rows: Slots that take theirs; None means all.

        Raises:
            gymnasium.error.ResetNeeded: If a slot's episode has ended.
            gymnasium.error.InvalidAction: If an action is no token, or an end-of-sequence token that comes too early;
                names slot and value.
        """
        reasons = self.finish_reasons if rows is None else self.finish_reasons[rows]
        if reasons.any():
            slot = int(np.flatnonzero(reasons)[0] if rows is None else rows[np.flatnonzero(reasons)[0]])
            why = FinishReason(int(self.finish_reasons[slot])).name
            if self.prompts[slot] is None:
                raise ResetNeeded(f"slot {slot} was never reset; call reset() before step()")
            raise ResetNeeded(f"the episode in slot {slot} has ended ({why}); reset it before its next action")
        chosen = actions if rows is None else actions[rows]
        absent = self.task.vocabulary.absent
        bad = (chosen < 0) | (chosen >= self.task.num_tokens)
        if len(absent):
            bad |= np.isin(chosen, absent)
        if bad.any():
            slot = int(np.flatnonzero(bad)[0] if rows is None else rows[np.flatnonzero(bad)[0]])
            raise InvalidAction(
                f"action {int(actions[slot])} of slot {slot} is no token: the tokenizer has {self.task.vocabulary}. If "
                "the policy's vocabulary is larger, pass its size as vocab_size and mask the rest with action_masks()"
            )
        if self.task.min_new_tokens:
            early = self.task.is_eos[chosen]
            early &= (self.response_tokens if rows is None else self.response_tokens[rows]) < self.task.min_new_tokens
            if early.any():
                slot = int(np.flatnonzero(early)[0] if rows is None else rows[np.flatnonzero(early)[0]])
                raise InvalidAction(
                    f"action {int(actions[slot])} of slot {slot} ends the answer after "
                    f"{int(self.response_tokens[slot])} tokens, before min_new_tokens = {self.task.min_new_tokens}; "
                    "mask it with action_masks()"
                )

    def action_masks(self, *, padding: bool = False) -> NDArray[np.bool_]:
        """True for tokens that each slot may choose, shape ``(num_slots, vocab_size)``.

        Ids that are no tokens and the pad token are False, and so are end-of-sequence tokens before
        ``min_new_tokens``.

        Args:
            padding: Whether the pad token, where the tokenizer has one, may be chosen as any other.
        """
        task = self.task
        masks = np.ones((self.num_slots, task.vocab_size), dtype=np.bool_)
        masks[:, task.num_tokens :] = False
        masks[:, task.vocabulary.absent] = False
        if task.pad_token_id < task.vocab_size and not padding:
            masks[:, task.pad_token_id] = False
        if task.min_new_tokens:
            early = self.response_tokens < task.min_new_tokens
            masks &= ~(early[:, None] & task.is_eos[None, :])
        return masks

    # --- one step -----------------------------------------------------------------------------------------------------

    def advance(self, actions: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> StepResult:
        """Appends one token to each slot and ends the episodes that it ends; scores those in one reward call.

        Args:
            actions: Checked actions, shape ``(num_slots,)``.
            rows: Slots that take theirs; None means all. The others stand still.

        Raises:
            RewardError: If the reward function fails.
            ConfigError: If the responder returns neither text, ids nor None.
        """
        task = self.task
        taking = self._every_slot if rows is None else rows
        chosen = actions if rows is None else actions[rows]
        self.version += 1
        position = self.lengths[taking]
        self.tokens[taking, position] = chosen
        if self.action_mask is not None:
            self.action_mask[taking, position] = True
        self.lengths[taking] += 1
        self.response_tokens[taking] += 1
        self.steps[taking] += 1
        result = StepResult(
            np.zeros(self.num_slots),
            np.zeros(self.num_slots),
            np.zeros(self.num_slots, dtype=np.bool_),
            np.zeros(self.num_slots, dtype=np.bool_),
        )
        if not len(taking):
            return result
        if task.token_reward is not None:
            self._pay_token_rewards(taking, position, result.rewards)
        used = self.response_tokens[taking]
        reasons = np.where(task.is_eos[chosen], EOS, np.where(used >= task.max_new_tokens, LENGTH, RUNNING))
        if task.stops is not None:
            self._match_stops(taking, chosen, used, reasons)
        if task.max_episode_steps is not None:
            reasons[(reasons == RUNNING) & (self.steps[taking] >= task.max_episode_steps)] = ABORTED
        if reasons.any():
            over = np.flatnonzero(reasons)
            self._end(taking[over].tolist(), reasons[over].tolist(), result)
        self.returns += result.rewards
        return result

    def _pay_token_rewards(self, rows: NDArray[np.int64], position: NDArray[np.int64], rewards: NDArray) -> None:
        assert self.task.token_reward is not None
        assert self.paid is not None
        views = [array.view() for array in (self.tokens, self.lengths, self.prompt_lengths, rows)]
        for view in views:
            view.flags.writeable = False
        paid = np.asarray(self.task.token_reward(TokenStep(*views)), dtype=np.float64)
        if paid.shape != rows.shape or not np.isfinite(paid).all():
            raise ShapeError(
                f"token_reward must return one finite number for each of {len(rows)} slots, got shape {paid.shape}: "
                f"{paid!r}"
            )
        self.paid[rows, position] = paid
        rewards[rows] = paid

    def _match_stops(self, rows: NDArray, chosen: NDArray, used: NDArray, reasons: NDArray) -> None:
        """Marks slots whose text now contains a stop string."""
        assert self.task.stops is not None
        could = self.task.stops.could_end[chosen] & (reasons != EOS) & (used >= self.task.min_new_tokens)
        for i in np.flatnonzero(could):
            slot = rows[i]
            begin = self.turn_starts[slot]
            if self.task.stops.matches(self.tokens[slot, begin : self.lengths[slot]], self.tokens[slot, :begin]):
                reasons[i] = STOP

    def _end(self, ended: list[int], reasons: list[int], result: StepResult) -> None:
        """Ends turns and episodes; pays the scores of all that ended with one reward call."""
        task = self.task
        scored: list[int] = []
        for slot, reason in zip(ended, reasons, strict=True):
            if task.responder is not None and reason in (EOS, STOP):
                replied = self._reply(slot, reason)
                if replied is not None:
                    out_of_steps = task.max_episode_steps is not None and self.steps[slot] >= task.max_episode_steps
                    reason = RUNNING if replied and not out_of_steps else ABORTED
            self.finish_reasons[slot] = reason
            if reason == RUNNING:
                continue
            if reason == ABORTED or (reason == LENGTH and task.on_length_limit == "truncate"):
                result.truncated[slot] = True
                self.last_episodes[slot] = self._episode(slot)
            else:
                result.terminated[slot] = True
                scored.append(slot)
        if not scored:
            return
        episodes = [self._episode(slot) for slot in scored]
        given = score_episodes(task.reward.get(), episodes)
        for i, slot in enumerate(scored):
            result.scores[slot] = given.scores[i]
            result.rewards[slot] += given.scores[i]
            self.last_episodes[slot] = with_score(episodes[i], given, i)

    def _reply(self, slot: int, reason: int) -> bool | None:
        """Lets the responder speak: True if the episode goes on, False if the reply does not fit, None if it ends."""
        task = self.task
        assert task.responder is not None
        assert self.action_mask is not None
        if self.turns[slot] >= task.max_turns or self.response_tokens[slot] >= task.max_new_tokens:
            return None
        self.finish_reasons[slot] = reason
        reply = task.responder(self._episode(slot))
        if isinstance(reply, str):
            context = EncodedText(self.tokens[slot, : self.lengths[slot]].tolist(), None)
            reply = task.answers.encode_response(context, reply, end=False)
        if reply is None:
            return None
        if not hasattr(reply, "__len__"):
            raise ConfigError(f"the responder must return a text, token ids or None, got {reply!r} for slot {slot}")
        if len(reply) == 0:
            return None
        if not all(isinstance(i, (int, np.integer)) and 0 <= i < task.num_tokens for i in reply):
            raise ConfigError(f"the responder must return a text, token ids or None, got {reply!r} for slot {slot}")
        if len(reply) > task.max_reply_tokens:
            return False
        start = int(self.lengths[slot])
        self.tokens[slot, start : start + len(reply)] = reply
        self.lengths[slot] += len(reply)
        self.turn_starts[slot] = start + len(reply)
        self.turns[slot] += 1
        return True

    # --- records ------------------------------------------------------------------------------------------------------

    def _episode(self, slot: int) -> Episode:
        """The record of a slot's episode as it stands, without a score; the only place where its text is made."""
        prompt = self.prompts[slot]
        assert prompt is not None
        start, end = int(self.prompt_lengths[slot]), int(self.lengths[slot])
        ids = tuple(self.tokens[slot, start:end].tolist())
        mask = None if self.action_mask is None else self.action_mask[slot, start:end]
        rewards = None if self.paid is None else tuple(self.paid[slot, start:end].tolist())
        return Episode(
            prompt=prompt.text,
            prompt_index=prompt.index,
            prompt_ids=prompt.ids,
            response=_answer_text(self.task, prompt.ids, ids, mask),
            response_ids=ids,
            finish_reason=FinishReason(int(self.finish_reasons[slot])),
            score=0.0,
            rewards=rewards,
            action_mask=None if mask is None else tuple(mask.tolist()),
            task=prompt.task,
            turns=int(self.turns[slot]),
            scored=False,
        )

    def get_state(self, slot: int) -> EnvState:
        """Where a slot's episode stands.

        Raises:
            gymnasium.error.ResetNeeded: If the slot was never reset.
        """
        prompt = self.prompts[slot]
        if prompt is None:
            raise ResetNeeded(f"slot {slot} was never reset; call reset() before get_state()")
        start, end = int(self.prompt_lengths[slot]), int(self.lengths[slot])
        return EnvState(
            prompt=prompt,
            response_ids=tuple(self.tokens[slot, start:end].tolist()),
            response_tokens=int(self.response_tokens[slot]),
            finish_reason=FinishReason(int(self.finish_reasons[slot])),
            turns=int(self.turns[slot]),
            episode_return=float(self.returns[slot]),
            turn_start=int(self.turn_starts[slot]),
            action_mask=None if self.action_mask is None else tuple(self.action_mask[slot, start:end].tolist()),
            token_rewards=None if self.paid is None else tuple(self.paid[slot, start:end].tolist()),
            last_episode=self.last_episodes[slot],
            steps=int(self.steps[slot]),
            wrappers={name: hook.read_episode(slot) for name, hook in self.hooks.items()} or None,
        )

    def set_state(self, slot: int, state: EnvState) -> None:
        """Puts a slot where a saved episode stood.

        Raises:
            ConfigError: If the state does not fit this task.
        """
        start = len(state.prompt.ids)
        end = start + len(state.response_ids)
        if start > self.task.max_prompt_tokens or end > self.task.max_length:
            raise ConfigError(
                f"the state has {start} prompt tokens and {end} in all; this environment takes at most "
                f"{self.task.max_prompt_tokens} and {self.task.max_length}"
            )
        foreign = [i for i in (*state.prompt.ids, *state.response_ids) if not 0 <= i < self.task.num_tokens]
        if foreign:
            raise ConfigError(
                f"the state holds the id {foreign[0]}; this environment has {self.task.num_tokens} tokens"
            )
        if state.response_tokens > self.task.max_new_tokens:
            raise ConfigError(
                f"the state has {state.response_tokens} answer tokens; max_new_tokens is {self.task.max_new_tokens} "
                "here"
            )
        for name, needed in (("action_mask", self.action_mask), ("token_rewards", self.paid)):
            if (getattr(state, name) is None) != (needed is None):
                raise ConfigError(f"the state's {name} does not fit: it comes from an environment of another kind")
        self.begin(slot, state.prompt)
        self.tokens[slot, start:end] = state.response_ids
        self.lengths[slot] = end
        self.response_tokens[slot] = state.response_tokens
        self.steps[slot] = state.response_tokens if state.steps is None else state.steps
        self.restored[slot] = True
        self.finish_reasons[slot] = int(state.finish_reason)
        self.turns[slot] = state.turns
        self.returns[slot] = state.episode_return
        self.turn_starts[slot] = state.turn_start
        self.last_episodes[slot] = state.last_episode
        if self.action_mask is not None:
            self.action_mask[slot, start:end] = state.action_mask
        if self.paid is not None:
            self.paid[slot, start:end] = state.token_rewards
        for name, hook in self.hooks.items():
            hook.write_episode(slot, (state.wrappers or {}).get(name))

    def snapshot(self) -> dict[str, Any]:
        """Copies of the flat state that infos carry, new on every call; ``score`` is the step's."""
        return {
            "finish_reason": self.finish_reasons.copy(),
            "response_tokens": self.response_tokens.copy(),
            "length": self.lengths.copy(),
            "prompt_tokens": self.prompt_lengths.copy(),
            "prompt_index": self.prompt_indices.copy(),
        }


def _answer_text(
    task: GenerationTask, prompt_ids: tuple[int, ...], ids: tuple[int, ...], mask: NDArray[np.bool_] | None
) -> str:
    """The answer's text; with a responder the turns of both sides, one line each."""
    if mask is None or mask.all():
        return task.answers.answer_text(prompt_ids, ids)
    protected = task.min_new_tokens - 1
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    texts = []
    for start, end in itertools.pairwise(edges):
        context, part = (*prompt_ids, *ids[:start]), ids[start:end]
        if mask[start]:
            texts.append(task.answers.text(context, part, protected))
            protected -= len(part)
        else:
            texts.append(task.answers.decode_after(context, part))
    return "\n".join(texts)
