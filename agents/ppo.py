"""PPO with a value head and KL-regularisation against a reference model.

One iteration: play an episode in every slot, score it (the environment does that), compute log-probs, values and
reference log-probs in one pass each, put −β·log(π/π_ref) on every token, estimate advantages, optimise the clipped
surrogate for a few epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.advantages import gae, whiten
from agents.kl import ESTIMATORS
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.learning.learner import Learner
from agents.losses import clipped_policy_loss, clipped_value_loss
from agents.policy import SequenceScores
from textenv.errors import ConfigError


@dataclass(frozen=True)
class PPOConfig(LearnerConfig):
    """Settings of PPO; defaults follow Ziegler et al. 2019 and Huang et al. 2024 (arXiv:2403.17031) where they agree.

    Attributes:
        epochs: Passes over each iteration's episodes.
        gae_lambda: Trace decay per token.
        clip_range: Of the probability ratio.
        clip_range_vf: Of the value estimate, score units; None does not clip.
        vf_coef: Weight of the value loss.
        whiten_rewards: Scale rewards to variance 1, keeping their mean.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over the iteration's tokens.

    Raises:
        ConfigError: If a value is out of its range.
    """

    epochs: int = 4
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = 0.2
    vf_coef: float = 0.1
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive_or_none("clip_range_vf")
        self._not_negative("vf_coef")
        self._shares("gae_lambda")
        if not 0 < self.clip_range < 1:
            raise ConfigError(f"`clip_range` must lie between 0 and 1, got {self.clip_range}")


def gae_advantages(experience: Experience, config: PPOConfig) -> Advantages:
    """Generalised advantage estimates; returns come from whitened rewards but unwhitened advantages.

    Source: Ziegler et al. 2019, arXiv:1909.08593 (code).
    """
    mask, rewards = experience.mask, experience.rewards
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, total=experience.world.sum)
    advantages, returns = gae(
        rewards,
        experience.values,
        experience.last_values,
        mask,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, total=experience.world.sum)
    return Advantages(advantages, returns)


def ppo_loss(new: SequenceScores, old: OldTokens, config: PPOConfig) -> TokenLoss:
    """Clipped surrogate, clipped value error and entropy bonus of each token.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9.
    """
    policy = clipped_policy_loss(new.logprobs, old.logprobs, old.advantages, old.mask, clip_range=config.clip_range)
    value = clipped_value_loss(new.values, old.values, old.returns, clip_range_vf=config.clip_range_vf)
    total = old.importance * policy.loss + config.vf_coef * value - config.ent_coef * new.entropy
    if config.kl_placement == "loss":
        total = total + old.kl_coef * ESTIMATORS[config.kl_estimator](new.logprobs - old.ref_logprobs)
    figures = {
        "loss/policy": policy.loss,
        "loss/value": value,
        "policy/approx_kl": policy.approx_kl,
        "policy/clip_fraction": policy.clipped,
        "policy/ratio": policy.ratio,
    }
    return TokenLoss(total, figures)


class PPO(Learner[PPOConfig]):
    """Proximal policy optimisation of a language model on text-generation environments; see :class:`Learner`.

    Source: Schulman et al. 2017, arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593.
    """

    config_type = PPOConfig
    default_estimator = staticmethod(gae_advantages)
    default_loss = staticmethod(ppo_loss)
    default_stage = "ppo"
    uses_critic = True
