"""The record of one sampled answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Trajectory:
    """One answer with what is known about each of its tokens.

    Attributes:
        prompt: Text of the prompt.
        prompt_ids: Its token ids as fed, int64, shape ``(P,)``.
        token_ids: The answer's tokens, end-of-text included, int64, shape ``(T,)``.
        response: The answer's text.
        behaviour_logprobs: Under the distribution that was drawn from, nats, ``(T,)``.
        logprobs: Under the policy over the whole vocabulary at the sampling temperature, nats, ``(T,)``.
        ref_logprobs: Under the reference policy, nats, ``(T,)``; None where not computed.
        values: Critic's estimate before each token, ``(T,)``; None where not computed.
        entropy: Of the policy before each token, nats, ``(T,)``; None where not computed.
        rewards: Learner's reward after each token, ``(T,)``; None where not computed.
        action_mask: True on tokens that the policy chose, ``(T,)``.
        score: The reward model's score; None where it was not asked.
        finish_reason: ``"eos"``, ``"stop"``, ``"length"`` or ``"aborted"``.
        sampling: The sampling settings that were in force.
        seed: Seed of the draws.
        policy_version: Number of updates that the policy had seen.
        extra: Whatever else belongs to it (group, parent, task).
    """

    prompt: str
    prompt_ids: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    response: str
    behaviour_logprobs: NDArray[np.float32]
    logprobs: NDArray[np.float32]
    finish_reason: str
    ref_logprobs: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    rewards: NDArray[np.float32] | None = None
    action_mask: NDArray[np.bool_] | None = None
    score: float | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    policy_version: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of answer tokens."""
        return len(self.token_ids)
