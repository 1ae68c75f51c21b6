"""Settings that every on-policy learner has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agents.kl import ESTIMATORS
from agents.losses import Aggregation
from textenv.errors import ConfigError


@dataclass(frozen=True)
class LearnerConfig:
    """Settings that every on-policy learner has; each algorithm adds its own.

    Attributes:
        learning_rate: Peak of Adam's learning rate.
        lr_schedule: ``"linear"`` and ``"cosine"`` decay to 0 over ``total_episodes``, ``"constant"`` does not.
        warmup_iterations: Iterations of linear warm-up.
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
            :mod:`agents.kl` for their gradients); any where ``kl_coef`` is 0, for the log.
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
        max_grad_norm: Gradient clip.
        adam_eps: Adam's epsilon.
        temperature: Of the policy: in rollouts, in the reference and in the update.
        target_kl: Stop an iteration's epochs once approx-KL passes 1.5 times this, nats per token; None never stops.
        checkpoint_every: Iterations between checkpoints where a run is given.
        keep_checkpoints: How many of them stay.
        eval_every: Iterations between evaluations where the learner has held-out prompts; the last is evaluated too.
        seed: Of prompts, sampling and shuffling.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: float = 1e-5
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_iterations: int = 0
    epochs: int = 1
    num_minibatches: int = 1
    micro_batch_size: int = 32
    group_size: int = 1
    gamma: float = 1.0
    ent_coef: float = 0.0
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    kl_placement: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    reward_scale: float = 1.0
    reward_clip: float | None = None
    missing_eos_penalty: float = 0.0
    missing_eos: Literal["subtract", "replace"] = "subtract"
    loss_aggregation: Aggregation = "token_mean"
    importance_cap: float | None = None
    reference_update: Literal["none", "ema", "copy"] = "none"
    reference_every: int = 100
    reference_decay: float = 0.99
    ptx_coef: float = 0.0
    critic_warmup_iterations: int = 0
    max_grad_norm: float = 1.0
    adam_eps: float = 1e-5
    temperature: float = 1.0
    target_kl: float | None = None
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    eval_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        self._positive("learning_rate", "epochs", "num_minibatches", "micro_batch_size", "max_grad_norm", "temperature")
        self._positive("kl_horizon", "checkpoint_every", "keep_checkpoints", "eval_every", "adam_eps", "reward_scale")
        self._positive("group_size", "reference_every")
        self._positive_or_none("kl_target", "target_kl", "reward_clip", "importance_cap")
        self._not_negative("warmup_iterations", "kl_coef", "ent_coef", "ptx_coef", "missing_eos_penalty")
        self._not_negative("critic_warmup_iterations")
        self._shares("gamma", "reference_decay")
        allowed = {
            "lr_schedule": ("linear", "cosine", "constant"),
            "kl_placement": ("reward", "loss"),
            "missing_eos": ("subtract", "replace"),
            "loss_aggregation": ("token_mean", "sequence_mean", "constant"),
            "reference_update": ("none", "ema", "copy"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                known = ", ".join(map(repr, values))
                raise ConfigError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}")
        if self.kl_estimator not in ESTIMATORS:
            raise ConfigError(f"`kl_estimator` must be 'k1', 'k2' or 'k3', got {self.kl_estimator!r}")
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

    def _positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` must be positive and finite, got {getattr(self, name)}")

    def _positive_or_none(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"`{name}` must be positive and finite, or None, got {value}")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` must be ≥ 0 and finite, got {getattr(self, name)}")

    def _shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must lie in [0, 1], got {getattr(self, name)}")

    def learning_rate_at(self, iteration: float, total_iterations: float) -> float:
        """Learning rate of an iteration (0-based), both counted in iterations of the present size."""
        warm = min(1.0, (iteration + 1) / (self.warmup_iterations + 1))
        progress = min(iteration / max(total_iterations, 1), 1.0)
        decay = {"linear": 1 - progress, "cosine": 0.5 + 0.5 * math.cos(math.pi * progress), "constant": 1.0}
        return self.learning_rate * warm * decay[self.lr_schedule]
