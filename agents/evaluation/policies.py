"""A policy on held-out prompts: rewards, KL against a reference, length, diversity, and independent judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy, PolicyOutputs
from agents.policy.forward import SequenceBatch
from textenv.answers import Vocabulary
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError
from textenv.rewards import score_episodes
from textenv.sampling.params import SamplingParams, SettledParams, settle
from textenv.sampling.processors import token_mask
from textenv.statistics import mean_interval
from textenv.trajectories import Trajectory, distinct_n

Judge = Callable[[list[str], list[str]], float]


class SequenceEvaluator(Protocol):
    """What gives log-probabilities of sequences: a policy, or :class:`agents.learning.reference.Reference`."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def evaluate(self, batch: SequenceBatch, /, *, temperature: float) -> PolicyOutputs:
        """Log-probs of the answer tokens, and what else it knows."""
        ...


class Evaluation(NamedTuple):
    """What a policy does on a set of prompts.

    Attributes:
        trajectories: One or more answers per prompt, with scores and reference log-probs filled in.
        summary: ``reward_mean``, ``reward_std``, ``reward_mean_interval`` (95 %, with distinct prompts as units; None
            of a single answer, or where all rewards are the same number other than 0 and 1), ``response_tokens``,
            ``eos_fraction``, ``distinct_2``, one figure per judge, and ``kl`` (nats per answer) where a reference was
            given.
        kl: log π(answer) − log π_ref(answer) of each answer at the sampling temperature, nats; zeros without a
            reference, shape ``(n,)``.
    """

    trajectories: list[Trajectory]
    summary: dict[str, Any]
    kl: NDArray[np.float64]


class TokenMasks(NamedTuple):
    """Which tokens sampling settings leave, by position in the answer.

    Attributes:
        early: Before the shortest length, bool, shape ``(V,)``.
        later: From there on, bool, shape ``(V,)``.
        min_new_tokens: The shortest length.
    """

    early: NDArray[np.bool_]
    later: NDArray[np.bool_]
    min_new_tokens: int

    @classmethod
    def of(cls, params: SettledParams, vocabulary: Vocabulary) -> TokenMasks | None:
        """The masks of some settings; None where they leave every token."""
        if not params.masks:
            return None
        later = token_mask(params, vocabulary.size).numpy() & vocabulary.is_token
        early = later.copy()
        early[[i for i in params.eos_token_id if i < len(early)]] = False
        return cls(early, later, params.min_new_tokens)

    def packed(self, lengths: Sequence[int]) -> NDArray[np.uint8]:
        """Bit-packed, one row per token of answers of these lengths, shape ``(N, ceil(V / 8))``."""
        early, later = np.packbits(self.early), np.packbits(self.later)
        first = np.concatenate([np.arange(length) < self.min_new_tokens for length in lengths])
        return np.where(first[:, None], early, later)


@torch.no_grad()
def sequence_logprobs(
    policy: SequenceEvaluator,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float,
    batch_size: int = 64,
    masks: TokenMasks | None = None,
) -> list[NDArray[np.float32]]:
    """A policy's log-probs of the answer tokens of given trajectories, nats, one array each.

    Args:
        policy: Scores them.
        trajectories: Answers.
        temperature: Divides the logits.
        batch_size: Sequences per forward pass.
        masks: Tokens that could be drawn; None allows all.
    """
    order = np.argsort([len(t.prompt_ids) + len(t) for t in trajectories], kind="stable")
    by_answer: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(trajectories)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        chosen = [trajectories[i] for i in rows]
        batch = SequenceBatch.from_ids(
            [t.prompt_ids.tolist() for t in chosen], [t.token_ids.tolist() for t in chosen], device=policy.device
        )
        if masks is not None:
            batch = replace(batch, allowed=masks.packed([len(t) for t in chosen]))
        logprobs = policy.evaluate(batch, temperature=temperature).logprobs.cpu().numpy()
        for row, i in enumerate(rows):
            by_answer[i] = logprobs[row, : len(trajectories[i])]
    return by_answer


@torch.no_grad()
def answer_logprobs(policy: CausalLMPolicy, answers: Sequence[tuple[Any, str]]) -> list[float]:
    """Log-probability of given answers with their end tokens at temperature 1, nats, as far as the context reaches.

    Args:
        policy: Scores them.
        answers: Prompts and answers.
    """
    read = policy.answers.encode_prompts([prompt for prompt, _ in answers])
    ends = bool(policy.answer.eos_token_ids)
    given = policy.answers.encode_responses(read, [response for _, response in answers], end=ends)
    trajectories = []
    for (prompt, response), asked, ids in zip(answers, read, given, strict=True):
        tokens = np.array(ids[: (policy.context_length or 10**9) - len(asked.ids)], np.int64)
        nothing = np.zeros(len(tokens), np.float32)
        trajectories.append(
            Trajectory(str(prompt), np.array(asked.ids, np.int64), tokens, response, nothing, nothing, "eos")
        )
    return [float(row.astype(np.float64).sum()) for row in sequence_logprobs(policy, trajectories, temperature=1.0)]


def evaluate_policy(
    policy: CausalLMPolicy,
    prompts: Sequence[Any],
    reward: Any,
    *,
    reference: SequenceEvaluator | None = None,
    sampling: SamplingParams | None = None,
    judges: Mapping[str, Judge] | None = None,
    n: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Answer prompts and measure the answers.

    Args:
        policy: Answers.
        prompts: Held-out prompts: texts, token ids, or conversations.
        reward: Reward of any documented kind.
        reference: For the KL; None leaves it out.
        sampling: Settings; give the same to all policies that are compared.
        judges: Further figures, functions of prompts and answers.
        n: Answers per prompt.
        seed: Of the draws; the same for all policies that are compared.

    Raises:
        RewardError: If the reward function fails.
        ConfigError: If a reference is given and the sampling does more than divide the logits by a temperature and
            mask tokens.
    """
    sampling, _ = settle(policy, sampling)
    if reference is not None and (not sampling.stochastic or sampling.truncates or sampling.repetition_penalty != 1):
        raise ConfigError(
            "a KL cannot be measured on answers drawn greedily, truncated (`top_k`, `top_p`, `min_p`, `typical_p`) or "
            "with a repetition penalty: they do not come from the distribution that is compared; sample plainly, or "
            "leave out `reference`"
        )
    trajectories = policy.generate(prompts, sampling, n=n, seed=seed)
    prompt_texts, answers = [t.prompt for t in trajectories], [t.response for t in trajectories]
    scores = score_episodes(reward, [as_episode(t, i // n) for i, t in enumerate(trajectories)]).scores
    kl = np.zeros(len(trajectories))
    if reference is not None:
        masks = TokenMasks.of(sampling, policy.vocabulary)
        ours = sequence_logprobs(policy, trajectories, temperature=sampling.temperature, masks=masks)
        theirs = sequence_logprobs(reference, trajectories, temperature=sampling.temperature, masks=masks)
        kl = np.array([float((a - b).astype(np.float64).sum()) for a, b in zip(ours, theirs, strict=True)])
        if (
            sampling.temperature != 1.0 or masks is not None
        ):  # the divergence is that of the tempered policies, the record that of their own
            ours = sequence_logprobs(policy, trajectories, temperature=1.0)
            theirs = sequence_logprobs(reference, trajectories, temperature=1.0)
        for trajectory, logprobs, ref_logprobs in zip(trajectories, ours, theirs, strict=True):
            trajectory.logprobs, trajectory.ref_logprobs = logprobs, ref_logprobs
    for trajectory, score in zip(trajectories, scores, strict=True):
        trajectory.score = float(score)
    interval = mean_interval(scores, np.array(prompt_texts, object))
    summary: dict[str, Any] = {
        "reward_mean": float(scores.mean()),
        "reward_std": float(scores.std()),
        "reward_mean_interval": [interval.low, interval.high] if np.isfinite(interval.low) else None,
        "response_tokens": float(np.mean([len(t) for t in trajectories])),
        "eos_fraction": float(np.mean([t.finish_reason in ("eos", "stop") for t in trajectories])),
        "distinct_2": distinct_n(answers, 2),
        "answers": len(trajectories),
    }
    summary |= {name: float(judge(prompt_texts, answers)) for name, judge in (judges or {}).items()}
    if reference is not None:
        summary["kl"] = float(kl.mean())
    return Evaluation(trajectories, summary, kl)


def as_episode(trajectory: Trajectory, prompt_index: int = -1) -> Episode:
    """An answer as an environment would have recorded it, for rewards that want more than texts.

    Args:
        trajectory: The answer.
        prompt_index: Of its prompt.
    """
    return Episode(
        prompt=trajectory.prompt,
        prompt_index=prompt_index,
        prompt_ids=tuple(trajectory.prompt_ids.tolist()),
        response=trajectory.response,
        response_ids=tuple(trajectory.token_ids.tolist()),
        finish_reason=FinishReason[trajectory.finish_reason.upper()],
        score=0.0,
        action_mask=None if trajectory.action_mask is None else tuple(trajectory.action_mask.tolist()),
        task=trajectory.extra.get("task"),
    )
