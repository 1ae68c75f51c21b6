"""The record of one sampled answer.

What is not known is None, never 0: a critic that says 0 and no critic are two things. The two log-probabilities that
every sampler reports are arrays always; they hold NaN throughout where nobody knows them (a demonstration, an episode
that somebody else's loop played), so that arithmetic on them cannot go unnoticed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode


@dataclass(eq=False)
class Trajectory:
    """One answer with what is known about each of its tokens.

    Attributes:
        prompt: Text of the prompt.
        prompt_ids: Its token ids as fed, int64, shape ``(P,)``.
        token_ids: The answer's tokens, end-of-text included, int64, shape ``(T,)``.
        response: The answer's text.
        behaviour_logprobs: Under the distribution that was drawn from, nats, ``(T,)``.
        logprobs: Under the policy over the whole vocabulary at temperature 1, nats, ``(T,)``.
        finish_reason: ``"eos"``, ``"stop"``, ``"length"`` or ``"aborted"``.
        ref_logprobs: Under the reference policy at temperature 1, nats, ``(T,)``; None where not computed.
        values: Critic's estimate before each token, ``(T,)``; None where not computed.
        entropy: Of the policy before each token, nats, ``(T,)``; None where not computed.
        rewards: Learner's reward after each token, ``(T,)``; None where not computed.
        action_mask: True on tokens that the policy chose, ``(T,)``; None means all of them.
        score: The reward model's score; None where it was not asked.
        sampling: The sampling settings that were in force; empty where not known.
        seed: Seed of the draws.
        policy_version: Number of updates that the policy had seen.
        extra: Whatever else belongs to it, JSON-able.
        traj_id: Name of this trajectory; a store gives one to those that have none.
        prompt_id: Name of the prompt in the user's data.
        group_id: Name of the group that it is compared within (the answers to one prompt in one iteration).
        sample_index: Which of the answers to its prompt it is, from 0.
        parent_id: ``traj_id`` of the trajectory that it branched off.
        branch_position: Answer tokens that it shares with its parent.
        source: Where it comes from: ``"policy"``, ``"demonstration"``, ``"environment"``, or a method's name.
        turn_ids: Number of the turn that each token belongs to, int32, ``(T,)``.
        terminated: The task ended it, so nothing follows; from the finish reason where neither of both is given.
        truncated: Something outside the task cut it off, so that its last value counts.
        kept_counts: Tokens that could be drawn at each step, int32, ``(T,)``.
        exact_kl: KL of the next-token distribution that was drawn from to the reference's, at each prefix, nats,
            ``(T,)``.
        last_value: Critic's estimate after the last token.
        advantages: ``(T,)``.
        returns: ``(T,)``.
        loss_weight: Weight of this trajectory in a learner's loss.
        score_parts: What the score is made of, by name and unweighted.
        reward_parts: What ``rewards`` is made of, by name, each ``(T,)``.
        reward_model: Name or hash of the reward model, with its normalisation.
        log_weight: Log of its weight in a weighted sample (sequential Monte Carlo), nats.
        policy: Name or folder of the policy.
        policy_hash: Hash of its weights.
        tokenizer_hash: Hash of its tokenizer.
        provenance: Everything else that made it: environment, dtype, device, package versions; JSON-able.
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
    traj_id: str | None = None
    prompt_id: str | None = None
    group_id: str | None = None
    sample_index: int | None = None
    parent_id: str | None = None
    branch_position: int | None = None
    source: str = "policy"
    turn_ids: NDArray[np.int32] | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    kept_counts: NDArray[np.int32] | None = None
    exact_kl: NDArray[np.float32] | None = None
    last_value: float | None = None
    advantages: NDArray[np.float32] | None = None
    returns: NDArray[np.float32] | None = None
    loss_weight: float | None = None
    score_parts: dict[str, float] | None = None
    reward_parts: dict[str, NDArray[np.float32]] | None = None
    reward_model: str | None = None
    log_weight: float | None = None
    policy: str | None = None
    policy_hash: str | None = None
    tokenizer_hash: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.terminated is None and self.truncated is None:
            self.truncated = self.finish_reason == "aborted"
            self.terminated = not self.truncated

    def __len__(self) -> int:
        """Number of answer tokens."""
        return len(self.token_ids)

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the prompt's token ids, first 16 hexadecimal digits: the same wherever the prompt was read."""
        return hashlib.sha256(np.asarray(self.prompt_ids, "<i8").tobytes()).hexdigest()[:16]

    @property
    def knows_behaviour(self) -> bool:
        """Whether the log-probabilities of its draws are known."""
        return not (len(self.behaviour_logprobs) and bool(np.isnan(self.behaviour_logprobs).all()))

    @classmethod
    def from_episode(cls, episode: Episode, *, rewards: NDArray[np.float32] | None = None) -> Trajectory:
        """What an environment knows of an episode; the log-probabilities are not known (NaN).

        Args:
            episode: A finished episode.
            rewards: What was paid after each answer token, shape ``(T,)``; None takes the episode's own.
        """
        tokens = np.array(episode.response_ids, np.int64)
        unknown = np.full(len(tokens), np.nan, np.float32)
        if rewards is None and episode.rewards is not None:
            rewards = np.array(episode.rewards, np.float32)
        reason = episode.finish_reason.name.lower()
        return cls(
            prompt=episode.prompt,
            prompt_ids=np.array(episode.prompt_ids, np.int64),
            token_ids=tokens,
            response=episode.response,
            behaviour_logprobs=unknown,
            logprobs=unknown.copy(),
            finish_reason=reason,
            rewards=rewards,
            action_mask=None if episode.action_mask is None else np.array(episode.action_mask, bool),
            score=float(episode.score) if episode.scored else None,
            score_parts=None if episode.reward_parts is None else dict(episode.reward_parts),
            prompt_id=str(episode.prompt_index) if episode.prompt_index >= 0 else None,
            source="environment",
            extra={} if episode.task is None else {"task": episode.task},
        )
