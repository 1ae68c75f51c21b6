"""A2C: advantage actor-critic, one unclipped step on every batch of episodes."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.surrogate import likelihood_loss
from agents.formulas.advantages import gae, whiten
from agents.formulas.losses import clipped_value_loss
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.policy import PolicyOutputs
from textenv.settings import NonNegativeFloat, UnitFloat


@dataclass(frozen=True)
class A2CConfig(LearnerConfig):
    """Settings of A2C; defaults follow Mnih et al. 2016, arXiv:1602.01783, where fine-tuning allows it.

    Their entropy bonus of 0.01 is left out, as in every preset for language models (the KL keeps the policy random),
    and their RMSProp is Adam here, as in all our learners.

    Attributes:
        gae_lambda: Trace decay per token; 1 is the paper's return of the whole episode.
        vf_coef: Weight of the value loss.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over the iteration's tokens.

    Raises:
        ConfigError: If a value is out of its range.
    """

    gae_lambda: UnitFloat = 1.0
    vf_coef: NonNegativeFloat = 0.5
    whiten_advantages: bool = False


def a2c_advantages(experience: Experience, config: A2CConfig) -> Advantages:
    """Returns minus the critic's estimates, and the returns for the critic."""
    advantages, returns = gae(
        experience.rewards,
        experience.values,
        experience.last_values,
        experience.action_mask,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, experience.action_mask, total=experience.world.sum)
    return Advantages(advantages, returns)


def a2c_loss(new: PolicyOutputs, old: OldTokens, config: A2CConfig) -> TokenLoss:
    """−A·log π of each token, and half the critic's squared error.

    Source: Mnih et al. 2016, arXiv:1602.01783, algorithm S3.
    """
    actor = likelihood_loss(new, old, config)
    value = clipped_value_loss(new.values, old.values, old.returns, clip_range_vf=None)
    return TokenLoss(actor.total + config.vf_coef * value, {**actor.figures, "loss/value": value})


class A2C(Learner[A2CConfig]):
    """Advantage actor-critic on text-generation environments; see :class:`Learner`.

    Source: Mnih et al. 2016, arXiv:1602.01783, with synchronous slots.
    """

    config_type = A2CConfig
    default_estimator = staticmethod(a2c_advantages)
    default_loss = staticmethod(a2c_loss)
    default_stage = "a2c"
    uses_critic = True
