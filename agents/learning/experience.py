"""Scored rollouts: what advantage estimators and losses get to see, and how it is made of what was played."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from agents.learning.config import LearnerConfig
from agents.learning.minibatches import MicroBatch, MiniBatch
from agents.learning.reference import Reference
from agents.learning.rewards import shaped_rewards
from agents.learning.rollouts import Rollout
from agents.policy import CausalLMPolicy
from textenv.kl import ESTIMATORS
from textenv.training.world import World


class Advantages(NamedTuple):
    """What an advantage estimator returns.

    Attributes:
        advantages: Shape ``(N, T)``, 0 where no action was taken.
        returns: Targets of the critic, shape ``(N, T)``; None where there is none to train.
    """

    advantages: torch.Tensor
    returns: torch.Tensor | None = None


class TokenLoss(NamedTuple):
    """What a loss function returns; entries off the mask count for nothing, NaN included.

    Attributes:
        total: What each token adds to the loss, shape ``(B, T)``; the learner averages it.
        figures: Further figures per token, each ``(B, T)``; the learner logs their means. ``policy/ratio`` and
            ``policy/approx_kl`` must be among them: the learner checks itself by them.
    """

    total: torch.Tensor
    figures: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Experience:
    """Episodes of one iteration with everything known about their tokens before the update.

    Rows are episodes; the ``group_size`` answers to one prompt stand next to each other. Token tensors are ``(N, T)``
    and 0 where no action was taken.

    Attributes:
        rollout: What the environment gave, the learner's own rewards aside.
        action_mask: True on tokens that the policy chose.
        logprobs: Under the policy at rollout time, nats.
        ref_logprobs: Under the reference, nats.
        values: Critic's estimates before each token; zeros without a critic.
        last_values: Critic's estimate after the last token of rows that were cut off from outside, 0 for all others,
            shape ``(N,)``.
        entropy: Of the policy before each token, nats.
        rewards: What the learner maximises: the environment's rewards as configured, minus the KL's price where that
            belongs to the reward.
        importance: min(π/behaviour, cap) where sampler and learner may differ; None means 1.
        kl_coef: Price of a nat in this iteration.
        group_size: Answers per prompt.
        world: The processes that share the iteration; its sums make statistics global.
        counted: True on the rows that advantages and losses are made of, shape ``(N,)``; see
            :meth:`agents.learning.rollouts.Rollout.counted`. None means all.
    """

    rollout: Rollout
    action_mask: torch.Tensor
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    last_values: torch.Tensor
    entropy: torch.Tensor
    rewards: torch.Tensor
    importance: torch.Tensor | None
    kl_coef: float
    group_size: int
    world: World
    counted: torch.Tensor | None = None

    @property
    def mask(self) -> torch.Tensor:
        """The name of :attr:`action_mask` in the version before, for estimators written then."""
        return self.action_mask

    @property
    def counted_mask(self) -> torch.Tensor:
        """True on the tokens that advantages and losses are made of, shape ``(N, T)``."""
        return self.action_mask if self.counted is None else self.action_mask & self.counted[:, None]

    @property
    def log_ratio(self) -> torch.Tensor:
        """Log π − log π_ref of the chosen tokens, nats, shape ``(N, T)``."""
        return torch.where(self.action_mask, self.logprobs - self.ref_logprobs, 0.0)

    @property
    def kl_per_sequence(self) -> torch.Tensor:
        """Sum of the log-ratios of each answer, nats, float64, shape ``(N,)``."""
        return self.log_ratio.double().sum(1)

    @property
    def sequence_rewards(self) -> torch.Tensor:
        """Undiscounted reward of each episode, shape ``(N,)``."""
        return self.rewards.sum(1)

    def by_group(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor ``(N,)`` as ``(N / group_size, group_size)``, one row per prompt."""
        return x.reshape(-1, self.group_size)


@torch.no_grad()
def assess(
    policy: CausalLMPolicy,
    reference: Reference,
    rollout: Rollout,
    minibatches: list[MiniBatch],
    config: LearnerConfig,
    *,
    kl_coef: float,
    uses_critic: bool,
    world: World,
) -> Experience:
    """Log-probs, values and the learner's rewards of a rollout, before the update.

    Args:
        policy: What played.
        reference: For the KL.
        rollout: What it played.
        minibatches: The rollout's rows in the micro-batches of the update, so that old and new log-probs come from the
            same computation.
        config: Settings of temperature, rewards, KL and importance weights.
        kl_coef: Price of a nat.
        uses_critic: Whether values are wanted.
        world: The processes.
    """
    device, dtype = policy.device, policy.logprobs_in
    action_mask = torch.as_tensor(rollout.action_mask, device=device)
    logprobs, ref_logprobs, values, entropy = (
        torch.zeros(action_mask.shape, dtype=dtype, device=device) for _ in range(4)
    )
    last_values = torch.zeros(len(action_mask), dtype=dtype, device=device)
    for part in (part for minibatch in minibatches for part in minibatch.parts):
        scores = policy.evaluate(part.batch, temperature=config.temperature, entropy=True, values=uses_critic)
        ours = reference.evaluate(part.batch, temperature=config.temperature).logprobs
        if part.is_filler:
            continue
        rows, width = part.rows, part.batch.action_mask.shape[1]
        logprobs[rows, :width], ref_logprobs[rows, :width] = scores.logprobs, ours
        values[rows, :width], entropy[rows, :width] = scores.values.to(dtype), scores.entropy
        last_values[rows] = scores.last_values.to(dtype)
    rewards = torch.as_tensor(shaped_rewards(rollout, config)).to(device, dtype)
    if config.kl_placement == "reward":
        price = kl_coef * ESTIMATORS[config.kl_estimator](logprobs - ref_logprobs)
        rewards = rewards - torch.where(action_mask, price, 0.0)
    importance = None
    if config.importance_cap is not None:
        behaviour = torch.as_tensor(rollout.behaviour_logprobs, device=device)
        importance = torch.where(action_mask, (logprobs - behaviour).exp().clamp(max=config.importance_cap), 0.0)
    return Experience(
        rollout=rollout,
        action_mask=action_mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        last_values=torch.where(torch.as_tensor(rollout.truncated, device=device), last_values, 0.0),
        entropy=entropy,
        rewards=rewards,
        importance=importance,
        kl_coef=kl_coef,
        group_size=config.group_size,
        world=world,
        counted=torch.as_tensor(rollout.counted(uses_critic=uses_critic), device=device),
    )


class OldTokens(NamedTuple):
    """A micro-batch of experience, beside the policy's present scores of the same tokens; token tensors ``(B, T)``.

    Attributes:
        counted_mask: True on tokens that the policy chose, in the answers that count.
        logprobs: At rollout time, nats.
        ref_logprobs: Of the reference, nats.
        values: Critic's estimates at rollout time.
        advantages: From the advantage estimator.
        returns: Critic's targets; zeros where the estimator gave none.
        importance: Weight of each token's policy term; 1 where nothing has to be corrected.
        kl_coef: Price of a nat in this iteration.
    """

    counted_mask: torch.Tensor
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    importance: torch.Tensor
    kl_coef: float

    @property
    def mask(self) -> torch.Tensor:
        """The name of :attr:`counted_mask` in the version before, for losses written then."""
        return self.counted_mask


def old_tokens(experience: Experience, estimated: Advantages, part: MicroBatch) -> OldTokens:
    """The rows of a micro-batch, cut to its width."""
    rows, width = part.rows, part.batch.action_mask.shape[1]

    def of(x: torch.Tensor) -> torch.Tensor:
        return x[rows, :width]

    logprobs = of(experience.logprobs)
    return OldTokens(
        counted_mask=of(experience.counted_mask),
        logprobs=logprobs,
        ref_logprobs=of(experience.ref_logprobs),
        values=of(experience.values),
        advantages=of(estimated.advantages),
        returns=torch.zeros_like(logprobs) if estimated.returns is None else of(estimated.returns),
        importance=torch.ones_like(logprobs) if experience.importance is None else of(experience.importance),
        kl_coef=experience.kl_coef,
    )
