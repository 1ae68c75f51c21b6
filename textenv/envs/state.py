"""The state of one episode, small and immutable: what branching, searching and resuming pass around."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from textenv.answers import as_json, as_text
from textenv.envs.task import EncodedPrompt
from textenv.episode import Episode, FinishReason


@dataclass(frozen=True, slots=True)
class EnvState:
    """Where one episode stands.

    Restoring it and taking the same actions gives bit-identical observations and rewards. It holds the tokens so far,
    no model and no text, so that taking and restoring it costs O(tokens so far). What textenv's wrappers know of the
    episode is part of it; what they learn across episodes (statistics, adaptive coefficients), a responder's own memory
    and Gymnasium's wrappers (``TimeLimit``) are not.

    Attributes:
        prompt: The prompt, encoded.
        response_ids: Every token after the prompt.
        response_tokens: How many of those the policy chose.
        finish_reason: ``RUNNING``, or why the episode ended.
        turns: Turns of the policy so far, the running one included.
        turn_start: Position in the row of tokens where the running turn begins.
        episode_return: Rewards paid so far.
        action_mask: True on the policy's tokens of ``response_ids``; None means all of them.
        token_rewards: What the token reward paid, by token of ``response_ids``; None without one.
        last_episode: The slot's latest finished episode.
        steps: Steps taken, which ``max_episode_steps`` limits; None (states of earlier versions) takes
            ``response_tokens``.
        wrappers: What wrappers around the environment know of the episode, by their hook's name, JSON-able.
        rng_state: State of the generator that deals prompts, where asked for.
        dealer_state: Place in the epoch of prompts, where asked for.
    """

    prompt: EncodedPrompt
    response_ids: tuple[int, ...]
    response_tokens: int
    finish_reason: FinishReason
    turns: int = 1
    turn_start: int = 0
    episode_return: float = 0.0
    action_mask: tuple[bool, ...] | None = None
    token_rewards: tuple[float, ...] | None = None
    last_episode: Episode | None = None
    steps: int | None = None
    wrappers: dict[str, Any] | None = None
    rng_state: dict[str, Any] | None = None
    dealer_state: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state as a JSON-able dictionary."""
        record = dataclasses.asdict(self)
        record["prompt"]["text"] = as_json(self.prompt.text)
        record["finish_reason"] = int(self.finish_reason)
        record["last_episode"] = None if self.last_episode is None else self.last_episode.to_dict()
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> EnvState:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON.

        Raises:
            TypeError: If fields are missing or unknown.
        """
        fields = dict(record)
        prompt = dict(fields["prompt"], ids=tuple(fields["prompt"]["ids"]))
        prompt["text"] = as_text(prompt["text"], "the state's prompt")
        fields["prompt"] = EncodedPrompt(**prompt)
        fields["finish_reason"] = FinishReason(fields["finish_reason"])
        for name in ("response_ids", "action_mask", "token_rewards"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        if fields.get("last_episode") is not None:
            fields["last_episode"] = Episode.from_dict(fields["last_episode"])
        return cls(**fields)
