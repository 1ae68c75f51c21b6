"""What was asked, what was answered and why it ended: the record of one finished episode.

Left out on purpose: log-probabilities and values. They belong to whoever acted; see ``textenv.trajectories``.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any


class FinishReason(enum.IntEnum):
    """Why an episode ended; ``RUNNING`` while it has not."""

    RUNNING = 0
    EOS = 1
    """The policy emitted an end-of-sequence token."""
    STOP = 2
    """The answer's text contains a stop string."""
    LENGTH = 3
    """The answer reached ``max_new_tokens``."""
    ABORTED = 4
    """Something outside the task cut the episode off; no score was paid."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One prompt and its answer; texts are made only when the episode ends.

    Attributes:
        prompt: The prompt's text, as the reward function sees it.
        prompt_index: Its index in the prompt source, -1 for a prompt given to ``reset(options=...)``.
        prompt_ids: Its tokens, as the policy sees them.
        response: The answer's text: without the end-of-sequence token, cut before the stop string that ended it, and
            without other special tokens unless the environment was made with ``skip_special_tokens=False``. With a
            responder it is the whole conversation after the prompt.
        response_ids: Every token after the prompt, the end-of-sequence token included. They are the ids that were
            sampled, never text that was encoded again.
        finish_reason: Why it ended.
        score: What the reward function said about the answer; 0.0 where ``scored`` is False.
        rewards: Rewards by token of ``response_ids``, where the reward function or the environment's token reward
            gives any, else None (the score then belongs to the last token).
        action_mask: True on the tokens of ``response_ids`` that the policy chose; None means all of them.
        task: The prompt's task, or None.
        turns: Number of turns that the policy took.
        reward_parts: What the score is made of, by name and unweighted, where the reward function says
            (:class:`textenv.rewards.SumReward` does), else None.
        scored: Whether the reward function was asked. It was not where something outside the task cut the episode off
            (``ABORTED``, or a length limit that truncates): such an answer is not one worth 0, it is none.
    """

    prompt: str
    prompt_index: int
    prompt_ids: tuple[int, ...]
    response: str
    response_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float
    rewards: tuple[float, ...] | None = None
    action_mask: tuple[bool, ...] | None = None
    task: str | None = None
    turns: int = 1
    reward_parts: dict[str, float] | None = None
    scored: bool = True

    def __post_init__(self) -> None:
        if self.finish_reason is FinishReason.ABORTED:
            object.__setattr__(self, "scored", False)

    @property
    def action_tokens(self) -> int:
        """Number of tokens that the policy chose, which is the number of steps."""
        return len(self.response_ids) if self.action_mask is None else sum(self.action_mask)

    def to_dict(self) -> dict[str, Any]:
        """The episode as a JSON-able dictionary; the finish reason is its name in lower case."""
        record = asdict(self)
        record["finish_reason"] = self.finish_reason.name.lower()
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Episode:
        """The inverse of :meth:`to_dict`.

        Raises:
            KeyError: If the finish reason is unknown.
            TypeError: If fields are missing or unknown.
        """
        fields = dict(record, finish_reason=FinishReason[str(record["finish_reason"]).upper()])
        for name in ("prompt_ids", "response_ids", "rewards", "action_mask"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)
