"""From a rollout to experience: one forward pass per model, then the learner's rewards."""

from __future__ import annotations

import torch

from agents.algorithms.kl import ESTIMATORS
from agents.learning.config import LearnerConfig
from agents.learning.experience import Experience
from agents.learning.minibatches import MiniBatch
from agents.learning.reference import Reference
from agents.learning.rewards import shaped_rewards
from agents.learning.rollouts import Rollout
from agents.policy import CausalLMPolicy
from textenv.training.world import World


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
    mask = torch.as_tensor(rollout.action_mask, device=device)
    logprobs, ref_logprobs, values, entropy = (torch.zeros(mask.shape, dtype=dtype, device=device) for _ in range(4))
    last_values = torch.zeros(len(mask), dtype=dtype, device=device)
    for part in (part for minibatch in minibatches for part in minibatch.parts):
        scores = policy.evaluate(part.batch, temperature=config.temperature, entropy=True, values=uses_critic)
        ours = reference.evaluate(part.batch, temperature=config.temperature).logprobs
        if part.is_filler:
            continue
        rows, width = part.rows, part.batch.response_mask.shape[1]
        logprobs[rows, :width], ref_logprobs[rows, :width] = scores.logprobs, ours
        values[rows, :width], entropy[rows, :width] = scores.values.to(dtype), scores.entropy
        last_values[rows] = scores.last_values.to(dtype)
    rewards = torch.as_tensor(shaped_rewards(rollout, config)).to(device, dtype)
    if config.kl_placement == "reward":
        price = kl_coef * ESTIMATORS[config.kl_estimator](logprobs - ref_logprobs)
        rewards = rewards - torch.where(mask, price, 0.0)
    importance = None
    if config.importance_cap is not None:
        behaviour = torch.as_tensor(rollout.behaviour_logprobs, device=device)
        importance = torch.where(mask, (logprobs - behaviour).exp().clamp(max=config.importance_cap), 0.0)
    return Experience(
        rollout=rollout,
        mask=mask,
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
