"""Forward and backward passes of a minibatch; the optimiser step is the learner's."""

from __future__ import annotations

from typing import NamedTuple

import torch

from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens
from agents.learning.minibatches import MicroBatch, MiniBatch
from agents.learning.protocols import Loss
from agents.losses import token_weights
from agents.policy import CausalLMPolicy
from textenv.errors import ConfigError

_CHECKED = {"policy/ratio", "policy/approx_kl"}


class Accumulated(NamedTuple):
    """What a minibatch's passes leave behind beside the gradients.

    Attributes:
        figures: This process's share of the mean of each figure over the minibatch's tokens, scalars.
        row_losses: Each row's share of the loss, scalars.
    """

    figures: dict[str, torch.Tensor]
    row_losses: dict[int, torch.Tensor]


def accumulate(
    policy: CausalLMPolicy,
    loss: Loss,
    config: LearnerConfig,
    experience: Experience,
    estimated: Advantages,
    minibatch: MiniBatch,
    *,
    uses_critic: bool,
    max_tokens: int,
) -> Accumulated:
    """Add the gradient of a minibatch's loss to the policy's, micro-batch by micro-batch.

    Args:
        policy: In the state before the step.
        loss: The algorithm's.
        config: The algorithm's.
        experience: The iteration's.
        estimated: Its advantages and returns.
        minibatch: Which of it.
        uses_critic: Whether the loss needs values.
        max_tokens: Length limit of an answer.

    Raises:
        ConfigError: If the loss does not report what the learner checks itself by.
    """
    figures: dict[str, torch.Tensor] = {}
    row_losses: dict[int, torch.Tensor] = {}
    for part in minibatch.parts:
        new = policy.evaluate(
            part.batch, temperature=config.temperature, entropy=config.ent_coef != 0, values=uses_critic
        )
        old = _old_tokens(experience, estimated, part)
        found = loss(new, old, config)
        if not found.figures.keys() >= _CHECKED:
            raise ConfigError("the loss must report `policy/ratio` and `policy/approx_kl` per token in its `figures`")
        counted = old.mask & (not part.is_filler)
        weights = token_weights(
            counted,
            config.loss_aggregation,
            tokens=minibatch.tokens,
            rows=minibatch.rows,
            max_tokens=max_tokens,
        )
        losses = (torch.where(counted, found.total, 0.0) * weights).sum(1)
        (losses.sum() * experience.world.loss_scale).backward()
        policy.pull_gradients()
        row_losses |= dict(zip(part.rows.tolist(), losses.detach(), strict=True))
        for name, figure in found.figures.items():
            share = torch.where(counted, figure.detach(), 0.0).sum() / minibatch.tokens
            figures[name] = figures[name] + share if name in figures else share
    return Accumulated(figures, row_losses)


def _old_tokens(experience: Experience, estimated: Advantages, part: MicroBatch) -> OldTokens:
    rows, width = part.rows, part.batch.response_mask.shape[1]

    def of(x: torch.Tensor) -> torch.Tensor:
        return x[rows, :width]

    logprobs = of(experience.logprobs)
    return OldTokens(
        mask=of(experience.counted_mask),
        logprobs=logprobs,
        ref_logprobs=of(experience.ref_logprobs),
        values=of(experience.values),
        advantages=of(estimated.advantages),
        returns=torch.zeros_like(logprobs) if estimated.returns is None else of(estimated.returns),
        importance=torch.ones_like(logprobs) if experience.importance is None else of(experience.importance),
        kl_coef=experience.kl_coef,
    )
