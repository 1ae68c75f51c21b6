"""Held-out prompts that a learner is measured on while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.learning.config import LearnerConfig
from agents.learning.reference import Reference
from agents.learning.rewards import shaped_rewards
from agents.learning.rollouts import Collector, Rollout
from agents.policy import CausalLMPolicy
from textenv.envs import TextGenerationVectorEnv
from textenv.episode import FinishReason
from textenv.errors import DataError
from textenv.prompts import as_prompt
from textenv.sampling.params import SamplingParams
from textenv.trajectories import distinct_n

_ROWS = 64  # of a forward pass


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are not trained on, played in the environment that trains: its ends, masks, replies and penalties.

    Attributes:
        prompts: In any form that the environment takes.
        reward: Reward function or model; None takes the environment's.
        n: Answers per prompt.
        sampling: How tokens are drawn; None draws as in training. Where answers end is the environment's.
        seed: Of the draws, the same at every evaluation.
    """

    prompts: Sequence[Any]
    reward: Any = None
    n: int = 1
    sampling: SamplingParams | None = None
    seed: int = 0

    def make_room(self, envs: TextGenerationVectorEnv) -> None:
        """Encode the prompts, before training begins, and let the environment take the longest of them.

        Raises:
            DataError: If one is unusable or too long; the message names it.
        """
        prompts = [as_prompt(prompt, f"held-out prompt {i}") for i, prompt in enumerate(self.prompts)]
        if not prompts:
            raise DataError("there are no held-out prompts; give at least one, or leave `held_out` out")
        envs.make_room(int(envs.task.prompt_lengths(prompts, "held-out prompt").max()))
        for i, prompt in enumerate(prompts):
            envs.task.encode_prompt(prompt, where=f"held-out prompt {i}")

    def measure(
        self, policy: CausalLMPolicy, reference: Reference, collector: Collector, config: LearnerConfig
    ) -> dict[str, float]:
        """Mean score and reward, KL against the reference where it can be measured, lengths and ends.

        Args:
            policy: Answers.
            reference: For the KL.
            collector: Plays the environment.
            config: How the learner shapes what the environment pays.

        Returns:
            ``eval/score`` and ``eval/score_std`` over the scored answers, ``eval/reward``: what the environment and its
            wrappers pay for an answer, shaped as the learner does, without the learner's own KL; and the rest.

        Raises:
            RewardError: If the reward function fails.
        """
        rollouts = collector.play(self.prompts, n=self.n, seed=self.seed, params=self.sampling, reward=self.reward)
        sampling = self.sampling or collector.params
        episodes = [episode for rollout in rollouts for episode in rollout.episodes]
        scored = ~np.concatenate([rollout.truncated for rollout in rollouts])
        scores, rewards = (
            np.array([episode.score for episode in episodes]),
            np.concatenate([shaped_rewards(rollout, config).sum(1, dtype=np.float64) for rollout in rollouts]),
        )
        ended = [episode.finish_reason in (FinishReason.EOS, FinishReason.STOP) for episode in episodes]
        figures = {
            "eval/score": float(scores[scored].mean()) if scored.any() else 0.0,
            "eval/score_std": float(scores[scored].std()) if scored.any() else 0.0,
            "eval/reward": float(rewards[scored].mean()) if scored.any() else 0.0,
            "eval/truncated_fraction": float(1.0 - scored.mean()),
            "eval/response_tokens": float(np.mean([episode.action_tokens for episode in episodes])),
            "eval/eos_fraction": float(np.mean(ended)),
            "eval/distinct_2": distinct_n([episode.response for episode in episodes], 2),
        }
        if sampling.tempered_only:
            kl = [_kl(policy, reference, rollout, sampling.temperature) for rollout in rollouts]
            figures["eval/kl"] = float(np.concatenate(kl).mean())
        return figures


@torch.no_grad()
def _kl(policy: CausalLMPolicy, reference: Reference, rollout: Rollout, temperature: float) -> NDArray[np.float64]:
    """Log π(answer) − log π_ref(answer) of each answer under the masks that held, nats, shape ``(N,)``."""
    kl = np.zeros(len(rollout.lengths))
    order = np.argsort(rollout.lengths, kind="stable")
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        batch = rollout.batch(rows, policy.device)
        ours = policy.evaluate(batch, temperature=temperature, values=False).logprobs
        theirs = reference.evaluate(batch, temperature=temperature).logprobs
        kl[rows] = (ours - theirs).double().sum(1).cpu().numpy()
    return kl
