"""Settings that every on-policy learner has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.formulas.losses import Aggregation
from textenv.errors import ConfigError
from textenv.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    OldName,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
    refuse_unused,
)
from textenv.training.settings import TrainingSettings


@dataclass(frozen=True)
class LearnerConfig(TrainingSettings):
    """Settings that every on-policy learner has, beside those of every training; each algorithm adds its own.

    A step of ``warmup_steps``, ``eval_every`` and ``checkpoint_every`` is an iteration: a rollout with its updates.

    Attributes:
        epochs: Passes over each iteration's episodes.
        num_minibatches: Optimiser steps per epoch.
        micro_batch_size: Sequences per forward and backward pass; gradients add up to a minibatch.
        group_size: Answers to each prompt, next to each other among the environment's slots.
        gamma: Discount per token.
        ent_coef: Weight of the entropy bonus.
        kl_coef: Reward units per nat of KL against the reference.
        kl_target: Wanted KL in nats per answer; None keeps the coefficient fixed.
        kl_horizon: Episodes over which the adaptive coefficient reacts.
        kl_placement: ``"reward"`` pays for the KL of each token, ``"loss"`` adds it to the loss.
        kl_estimator: Per-token estimate: ``"k1"`` in the reward, ``"k2"`` or ``"k3"`` in the loss (see
            :mod:`textenv.kl` for their gradients); any where ``kl_coef`` is 0, for the log.
        reward_scale: Multiplies what the environment pays.
        reward_clip: Then clips it to ± this; None does not. The KL is subtracted afterwards.
        missing_eos_penalty: For answers that the length limit cut off; 0 punishes none.
        missing_eos: ``"subtract"`` takes the penalty off the score, ``"replace"`` puts −penalty in its place.
        loss_aggregation: ``"token_mean"``: all tokens of a minibatch count alike; ``"sequence_mean"``: all answers;
            ``"constant"``: all tokens, divided by the length limit.
        importance_cap: Weights each token's policy term by min(π/sampler, cap), for samplers that are not quite the
            policy; None trusts the sampler and checks it.
        reference_update: ``"none"``; ``"ema"`` moves the reference towards the policy after every iteration;
            ``"copy"`` replaces it every ``reference_every`` iterations.
        reference_every: Iterations between copies.
        reference_decay: Share of the old reference that an EMA keeps.
        ptx_coef: Weight of the language-modelling loss on the learner's ``ptx`` batches (InstructGPT).
        critic_warmup_iterations: Iterations at the start in which only the critic learns, where there is one.
        adam_eps: Adam's epsilon.
        temperature: Of the policy: in rollouts, in the reference and in the update.
        target_kl: Stop an iteration's epochs once approx-KL passes 1.5 times this, nats per token; None never stops.

    Raises:
        ConfigError: If a value is out of its range.
    """

    old_names: ClassVar = {"warmup_iterations": OldName("warmup_steps")}

    epochs: PositiveInt = 1
    num_minibatches: PositiveInt = 1
    micro_batch_size: PositiveInt = 32
    group_size: PositiveInt = 1
    gamma: UnitFloat = 1.0
    ent_coef: NonNegativeFloat = 0.0
    kl_coef: NonNegativeFloat = 0.05
    kl_target: PositiveFloat | None = None
    kl_horizon: PositiveInt = 10_000
    kl_placement: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    reward_scale: PositiveFloat = 1.0
    reward_clip: PositiveFloat | None = None
    missing_eos_penalty: NonNegativeFloat = 0.0
    missing_eos: Literal["subtract", "replace"] = "subtract"
    loss_aggregation: Aggregation = "token_mean"
    importance_cap: PositiveFloat | None = None
    reference_update: Literal["none", "ema", "copy"] = "none"
    reference_every: PositiveInt = 100
    reference_decay: UnitFloat = 0.99
    ptx_coef: NonNegativeFloat = 0.0
    critic_warmup_iterations: NonNegativeInt = 0
    adam_eps: PositiveFloat = 1e-5
    temperature: PositiveFloat = 1.0
    target_kl: PositiveFloat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_target is None:
            refuse_unused(self, "without `kl_target`: the coefficient is fixed then", "kl_horizon")
        if self.reference_update != "copy":
            refuse_unused(self, "unless `reference_update` is 'copy'", "reference_every")
        if self.reference_update != "ema":
            refuse_unused(self, "unless `reference_update` is 'ema'", "reference_decay")
        if not self.missing_eos_penalty:
            refuse_unused(self, "without `missing_eos_penalty`", "missing_eos")
        fitting = ("k1",) if self.kl_placement == "reward" else ("k2", "k3")
        if self.kl_coef and self.kl_estimator not in fitting:
            why = (
                "paid as a reward, the others do not regularise the token that they are paid for"
                if self.kl_placement == "reward"
                else "the gradient of k1 is 0 on average"
            )
            raise ConfigError(
                f"`kl_estimator` must be {' or '.join(map(repr, fitting))} with `kl_placement={self.kl_placement!r}`, "
                f"got {self.kl_estimator!r}; {why}"
            )
