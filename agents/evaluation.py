"""A policy on held-out prompts: rewards, KL against a reference, length, diversity, and independent judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.forward import SequenceBatch
from agents.policy import CausalLMPolicy, SequenceScores
from textenv.errors import ConfigError
from textenv.rewards import call_reward
from textenv.sampling.params import SamplingParams
from textenv.trajectories import Trajectory, distinct_n, mean_interval

Judge = Callable[[list[str], list[str]], float]


class SequenceScorer(Protocol):
    """What gives log-probabilities of sequences: a policy, or :class:`agents.learning.reference.Reference`."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def evaluate(self, batch: SequenceBatch, /, *, temperature: float) -> SequenceScores:
        """Log-probs of the answer tokens, and what else it knows."""
        ...


class Evaluation(NamedTuple):
    """What a policy does on a set of prompts.

    Attributes:
        trajectories: One or more answers per prompt, with scores and reference log-probs filled in.
        summary: ``reward_mean``, ``reward_std``, ``reward_mean_interval``, ``response_tokens``, ``eos_fraction``,
            ``distinct_2``, one figure per judge, and ``kl`` (nats per answer) where a reference was given.
        kl: log π(answer) − log π_ref(answer) of each answer at the sampling temperature, nats; zeros without a
            reference, shape ``(n,)``.
    """

    trajectories: list[Trajectory]
    summary: dict[str, Any]
    kl: NDArray[np.float64]


@torch.no_grad()
def sequence_logprobs(
    policy: SequenceScorer, trajectories: Sequence[Trajectory], *, temperature: float, batch_size: int = 64
) -> list[NDArray[np.float32]]:
    """A policy's log-probs of the answer tokens of given trajectories, nats, one array each."""
    order = np.argsort([len(t.prompt_ids) + len(t) for t in trajectories], kind="stable")
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(trajectories)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        chosen = [trajectories[i] for i in rows]
        batch = SequenceBatch.from_ids(
            [t.prompt_ids.tolist() for t in chosen], [t.token_ids.tolist() for t in chosen], device=policy.device
        )
        logprobs = policy.evaluate(batch, temperature=temperature).logprobs.cpu().numpy()
        for row, i in enumerate(rows):
            found[i] = logprobs[row, : len(trajectories[i])]
    return found


def evaluate_policy(
    policy: CausalLMPolicy,
    prompts: Sequence[str],
    reward: Any,
    *,
    reference: SequenceScorer | None = None,
    sampling: SamplingParams | None = None,
    judges: Mapping[str, Judge] | None = None,
    n: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Answer prompts and measure the answers.

    Args:
        policy: Answers.
        prompts: Held-out prompts.
        reward: Reward function or model.
        reference: For the KL; None leaves it out.
        sampling: Settings; give the same to all policies that are compared.
        judges: Further figures, functions of prompts and answers.
        n: Answers per prompt.
        seed: Of the draws; the same for all policies that are compared.

    Raises:
        RewardError: If the reward function fails.
        ConfigError: If a reference is given and the sampling does more than divide the logits by a temperature.
    """
    sampling = sampling or SamplingParams()
    if reference is not None and not sampling.tempered_only:
        raise ConfigError(
            "a KL cannot be measured on answers drawn greedily, truncated (`top_k`, `top_p`, `min_p`, `typical_p`), "
            "with masks or with a repetition penalty: they do not come from the distribution that is compared; "
            "sample plainly, or leave out `reference`"
        )
    trajectories = policy.generate(prompts, sampling, n=n, seed=seed)
    asked, answers = [t.prompt for t in trajectories], [t.response for t in trajectories]
    scores = call_reward(reward, asked, answers)
    kl = np.zeros(len(trajectories))
    if reference is not None:
        ours = sequence_logprobs(policy, trajectories, temperature=sampling.temperature)
        theirs = sequence_logprobs(reference, trajectories, temperature=sampling.temperature)
        kl = np.array([float((a - b).astype(np.float64).sum()) for a, b in zip(ours, theirs, strict=True)])
        if sampling.temperature != 1.0:  # the divergence is that of the tempered policies, the record that of their own
            ours = sequence_logprobs(policy, trajectories, temperature=1.0)
            theirs = sequence_logprobs(reference, trajectories, temperature=1.0)
        for trajectory, own, other in zip(trajectories, ours, theirs, strict=True):
            trajectory.logprobs, trajectory.ref_logprobs = own, other
    for trajectory, score in zip(trajectories, scores, strict=True):
        trajectory.score = float(score)
    summary: dict[str, Any] = {
        "reward_mean": float(scores.mean()),
        "reward_std": float(scores.std()),
        "reward_mean_interval": list(mean_interval(scores, np.random.default_rng(seed))),
        "response_tokens": float(np.mean([len(t) for t in trajectories])),
        "eos_fraction": float(np.mean([t.finish_reason == "eos" for t in trajectories])),
        "distinct_2": distinct_n(answers, 2),
        "answers": len(trajectories),
    }
    summary |= {name: float(judge(asked, answers)) for name, judge in (judges or {}).items()}
    if reference is not None:
        summary["kl"] = float(kl.mean())
    return Evaluation(trajectories, summary, kl)
