"""What is read out of a slot and put back: the record of an episode, and its state.

Functions over :class:`textenv.envs.slots.Slots`, whose methods call them.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from textenv.envs.state import EnvState
from textenv.envs.task import GenerationTask
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError
from textenv.rewards import Scores

if TYPE_CHECKING:
    from textenv.envs.slots import Slots


def make_episode(slots: Slots, slot: int) -> Episode:
    """The record of a slot's episode as it stands, without a score; the only place where its text is made."""
    prompt = slots.prompts[slot]
    assert prompt is not None
    start, end = int(slots.prompt_lengths[slot]), int(slots.lengths[slot])
    ids = tuple(slots.tokens[slot, start:end].tolist())
    mask = None if slots.policy_mask is None else slots.policy_mask[slot, start:end]
    rewards = None if slots.paid is None else tuple(slots.paid[slot, start:end].tolist())
    return Episode(
        prompt=prompt.text,
        prompt_index=prompt.index,
        prompt_ids=prompt.ids,
        response=answer_text(slots.task, prompt.ids, ids, mask),
        response_ids=ids,
        finish_reason=FinishReason(int(slots.finish_reasons[slot])),
        score=0.0,
        rewards=rewards,
        action_mask=None if mask is None else tuple(mask.tolist()),
        task=prompt.task,
        turns=int(slots.turns[slot]),
        scored=False,
    )


def with_score(episode: Episode, given: Scores, index: int) -> Episode:
    """An episode with what the reward function said about it.

    Args:
        episode: The episode, with the token rewards already paid.
        given: Scores of all episodes that ended together.
        index: Which of them is this one's.
    """
    score, rewards = float(given.scores[index]), episode.rewards
    if given.token_rewards is not None:
        paid = np.zeros(len(episode.response_ids)) if rewards is None else np.array(rewards)
        rewards = tuple((paid + given.token_rewards[index]).tolist())
    elif rewards is not None:
        rewards = (*rewards[:-1], rewards[-1] + score)
    parts = None if given.parts is None else {name: float(values[index]) for name, values in given.parts.items()}
    return dataclasses.replace(episode, score=score, rewards=rewards, reward_parts=parts, scored=True)


def answer_text(
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


def read_state(slots: Slots, slot: int) -> EnvState:
    """Where a slot's episode stands.

    Raises:
        gymnasium.error.ResetNeeded: If the slot was never reset.
    """
    prompt = slots.prompts[slot]
    if prompt is None:
        raise ResetNeeded(f"slot {slot} was never reset; call reset() before get_state()")
    start, end = int(slots.prompt_lengths[slot]), int(slots.lengths[slot])
    return EnvState(
        prompt=prompt,
        response_ids=tuple(slots.tokens[slot, start:end].tolist()),
        response_tokens=int(slots.response_tokens[slot]),
        finish_reason=FinishReason(int(slots.finish_reasons[slot])),
        turns=int(slots.turns[slot]),
        episode_return=float(slots.returns[slot]),
        turn_start=int(slots.turn_starts[slot]),
        action_mask=None if slots.policy_mask is None else tuple(slots.policy_mask[slot, start:end].tolist()),
        token_rewards=None if slots.paid is None else tuple(slots.paid[slot, start:end].tolist()),
        last_episode=slots.last_episodes[slot],
        steps=int(slots.steps[slot]),
        wrappers={name: hook.read_episode(slot) for name, hook in slots.hooks.items()} or None,
    )


def write_state(slots: Slots, slot: int, state: EnvState) -> None:
    """Puts a slot where a saved episode stood.

    Raises:
        ConfigError: If the state does not fit this task.
    """
    start = len(state.prompt.ids)
    end = start + len(state.response_ids)
    if start > slots.task.max_prompt_tokens or end > slots.task.max_length:
        raise ConfigError(
            f"the state has {start} prompt tokens and {end} in all; this environment takes at most "
            f"{slots.task.max_prompt_tokens} and {slots.task.max_length}"
        )
    foreign = [i for i in (*state.prompt.ids, *state.response_ids) if not 0 <= i < slots.task.num_tokens]
    if foreign:
        raise ConfigError(f"the state holds the id {foreign[0]}; this environment has {slots.task.num_tokens} tokens")
    if state.response_tokens > slots.task.max_new_tokens:
        raise ConfigError(
            f"the state has {state.response_tokens} answer tokens; max_new_tokens is {slots.task.max_new_tokens} here"
        )
    for name, needed in (("action_mask", slots.policy_mask), ("token_rewards", slots.paid)):
        if (getattr(state, name) is None) != (needed is None):
            raise ConfigError(f"the state's {name} does not fit: it comes from an environment of another kind")
    slots.begin(slot, state.prompt)
    slots.tokens[slot, start:end] = state.response_ids
    slots.lengths[slot] = end
    slots.response_tokens[slot] = state.response_tokens
    slots.steps[slot] = state.response_tokens if state.steps is None else state.steps
    slots.restored[slot] = True
    slots.finish_reasons[slot] = int(state.finish_reason)
    slots.turns[slot] = state.turns
    slots.returns[slot] = state.episode_return
    slots.turn_starts[slot] = state.turn_start
    slots.last_episodes[slot] = state.last_episode
    if slots.policy_mask is not None:
        slots.policy_mask[slot, start:end] = state.action_mask
    if slots.paid is not None:
        slots.paid[slot, start:end] = state.token_rewards
    for name, hook in slots.hooks.items():
        hook.write_episode(slot, (state.wrappers or {}).get(name))
