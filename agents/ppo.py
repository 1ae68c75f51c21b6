"""PPO with a value head and KL-regularisation against a reference model.

One iteration: play an episode in every slot, score it (the environment does that), compute log-probs, values and
reference log-probs in one pass each, put −β·log(π/π_ref) on every token, estimate advantages, optimise the clipped
surrogate for a few epochs.

Left out on purpose: anything about rewards (they are the environment's) and text (tokens all the way).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents import checks
from agents.advantages import explained_variance, gae, masked_mean, whiten
from agents.forward import SequenceBatch
from agents.kl import ESTIMATORS
from agents.losses import clipped_policy_loss, clipped_value_loss
from agents.policy import CausalLMPolicy
from agents.rollouts import Collector, Rollout
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError, ConfigError
from textenv.progress import StageProgress
from textenv.runs import Run
from textenv.wrappers.kl import make_controller

Callback = Callable[["PPO", dict[str, float]], None]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; defaults follow Ziegler et al. 2019 and Huang et al. 2024 (arXiv:2403.17031) where they agree.

    Attributes:
        learning_rate: Peak of Adam's learning rate.
        lr_schedule: ``"linear"`` decays to 0 over ``total_episodes``, ``"constant"`` does not.
        warmup_iterations: Iterations of linear warm-up.
        epochs: Passes over each iteration's episodes.
        num_minibatches: Optimiser steps per epoch.
        micro_batch_size: Sequences per forward and backward pass; gradients add up to a minibatch.
        gamma: Discount per token.
        gae_lambda: Trace decay per token.
        clip_range: Of the probability ratio.
        clip_range_vf: Of the value estimate, score units; None does not clip.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        kl_coef: Reward units per nat of KL against the reference.
        kl_target: Wanted KL in nats per answer; None keeps the coefficient fixed.
        kl_horizon: Episodes over which the adaptive coefficient reacts.
        kl_estimator: Per-token estimate that is subtracted from the reward.
        whiten_rewards: Scale rewards to variance 1, keeping their mean.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over the iteration's tokens.
        max_grad_norm: Gradient clip.
        adam_eps: Adam's epsilon.
        temperature: Of the policy: in rollouts, in the reference and in the update.
        target_kl: Stop an iteration's epochs once approx-KL passes 1.5 times this, nats per token; None never stops.
        checkpoint_every: Iterations between checkpoints where a run is given.
        seed: Of sampling and shuffling.

    Raises:
        ConfigError: If a value is out of its range.
    """

    learning_rate: float = 1e-5
    lr_schedule: Literal["linear", "constant"] = "linear"
    warmup_iterations: int = 0
    epochs: int = 4
    num_minibatches: int = 1
    micro_batch_size: int = 32
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = 0.2
    vf_coef: float = 0.1
    ent_coef: float = 0.0
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    kl_estimator: Literal["k1", "k3"] = "k1"
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    max_grad_norm: float = 1.0
    adam_eps: float = 1e-5
    temperature: float = 1.0
    target_kl: float | None = None
    checkpoint_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("learning_rate", "epochs", "num_minibatches", "micro_batch_size", "max_grad_norm", "temperature")
        for name in (*positive, "kl_horizon", "checkpoint_every", "adam_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` must be positive and finite, got {getattr(self, name)}")
        for name in ("clip_range_vf", "kl_target", "target_kl"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"`{name}` must be positive and finite, or None, got {value}")
        for name in ("warmup_iterations", "kl_coef", "vf_coef", "ent_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` must be ≥ 0 and finite, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must lie in [0, 1], got {getattr(self, name)}")
        if not 0 < self.clip_range < 1:
            raise ConfigError(f"`clip_range` must lie between 0 and 1, got {self.clip_range}")
        if self.kl_estimator not in ("k1", "k3"):
            raise ConfigError(
                f"`kl_estimator` must be 'k1' or 'k3', got {self.kl_estimator!r}; k2 is biased and belongs in a loss"
            )

    def learning_rate_at(self, iteration: int, total_iterations: int) -> float:
        """Learning rate of an iteration (0-based)."""
        warm = min(1.0, (iteration + 1) / (self.warmup_iterations + 1))
        decay = 1 - iteration / max(total_iterations, 1) if self.lr_schedule == "linear" else 1.0
        return self.learning_rate * warm * max(decay, 0.0)


class Targets(NamedTuple):
    """What an iteration's update works on; all ``(N, T)``, 0 where no action was taken.

    Attributes:
        mask: True on tokens that the policy chose.
        logprobs: Under the policy at rollout time, nats.
        values: Critic's estimates at rollout time.
        log_ratio: log π − log π_ref at rollout time, nats.
        advantages: Whitened where the configuration says so.
        returns: Targets of the critic.
        entropy: Of the policy at rollout time, nats.
    """

    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    log_ratio: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    entropy: torch.Tensor


class PPO:
    """Proximal policy optimisation of a language model on text-generation environments.

    Args:
        policy: Trained in place.
        envs: textenv's vector environment, wrapped or not; put into ``AutoresetMode.DISABLED``.
        reference: The policy that the KL is measured against; None means the policy as it stands now: its adapter
            switched off, or one frozen copy.
        config: Settings.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs and of the folder in the run.

    Raises:
        ConfigError: If environment and policy do not fit.
    """

    def __init__(
        self,
        policy: CausalLMPolicy,
        envs: VectorEnv,
        *,
        reference: CausalLMPolicy | None = None,
        config: PPOConfig | None = None,
        run: Run | None = None,
        stage: str = "ppo",
    ) -> None:
        self.policy = policy
        self.envs = envs
        self.config = config or PPOConfig()
        self.run = run
        self.stage = stage
        if envs.num_envs < self.config.num_minibatches:
            raise ConfigError(
                f"{self.config.num_minibatches} minibatches need as many episodes per iteration, there are "
                f"{envs.num_envs}; raise `num_envs` or lower `num_minibatches`"
            )
        self.reference = reference if reference is not None or policy.has_adapter else frozen_copy(policy)
        self._own_reference = reference is None
        self._checked = False
        if self.reference is not None:
            frozen = list(self.reference.parameters())
        else:  # the adapter's own trunk
            frozen = [p for p in policy.causal_lm.parameters() if not p.requires_grad]
        self._reference_sum = float(sum(p.detach().double().square().sum() for p in frozen))
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            trained, lr=self.config.learning_rate, eps=self.config.adam_eps, fused=policy.device.type == "cpu" or None
        )
        self.collector = Collector(policy, envs, temperature=self.config.temperature, seed=self.config.seed)
        self.kl = make_controller(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon)
        self.iteration = 0
        self.episodes = 0
        self.tokens = 0
        self.checks: dict[str, bool] = {}
        self.envs.reset(seed=self.config.seed)

    # --- training -----------------------------------------------------------------------------------------------------

    def learn(self, total_episodes: int, callback: Callback | None = None) -> PPO:
        """Train until this many episodes have been played in all, those before a resume included.

        Args:
            total_episodes: Also the horizon of the learning-rate schedule.
            callback: Called with the agent and the metrics after every iteration.

        Returns:
            The agent itself.

        Raises:
            RunCheckError: If a check of the run fails or a figure stops being finite.
        """
        if self.run is not None:
            self._resume_run()
        per_iteration = self.envs.num_envs
        total_iterations = math.ceil(total_episodes / per_iteration)
        console = self.run.console if self.run is not None else None
        with StageProgress(self.stage, total_iterations, console, start=self.iteration) as progress:
            began_tokens = self.tokens
            while self.iteration < total_iterations:
                metrics = self.iterate(self.config.learning_rate_at(self.iteration, total_iterations))
                shown = {"score": metrics["objective/score"], "kl": metrics["objective/kl"]}
                progress.update(self.iteration, shown, tokens=self.tokens - began_tokens)
                if callback is not None:
                    callback(self, metrics)
                if self.run is not None:
                    self.run.log(self.stage, self.iteration, metrics)
                    if self.iteration % self.config.checkpoint_every == 0 and self.iteration < total_iterations:
                        self.run.checkpoints(self.stage).save(self.iteration, self._write_state)
        return self

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One iteration: rollout, advantages, update. Returns its metrics."""
        rollout = self.collector.collect(self.episodes)
        began = time.monotonic()
        minibatches = self._minibatches(rollout.lengths)
        parts = [rows for minibatch in minibatches for rows in minibatch]
        batches = [self._batch(rollout, rows) for rows in parts]
        targets = self._targets(rollout, parts, batches)
        if not self._checked:
            self._check_first(rollout, parts, batches, targets)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        losses = self._update(minibatches, batches, targets)
        count = len(rollout.episodes)
        kl = torch.where(targets.mask, targets.log_ratio, 0.0).double().sum(1).cpu().numpy()
        metrics = self._metrics(rollout, targets, losses, float(kl.mean()))
        metrics["policy/learning_rate"] = learning_rate
        self.kl.update(kl)
        self.iteration += 1
        self.episodes += count
        self.tokens += rollout.action_tokens
        seconds = time.monotonic() - began
        metrics["rollout/episodes"] = float(self.episodes)
        metrics["rollout/tokens"] = float(self.tokens)
        metrics["time/rollout_seconds"] = rollout.seconds
        metrics["time/update_seconds"] = seconds
        metrics["time/tokens_per_second"] = rollout.action_tokens / (rollout.seconds + seconds)
        return metrics

    def _minibatches(self, lengths: np.ndarray) -> list[list[np.ndarray]]:
        """Rows of each minibatch, dealt at random, in micro-batches of similar length.

        The same micro-batches serve the old log-probs and every epoch, so that the first ratio is exactly 1.
        """
        rng = np.random.default_rng([self.config.seed, self.iteration, 11])
        found = []
        for rows in np.array_split(rng.permutation(len(lengths)), self.config.num_minibatches):
            ordered = rows[np.argsort(lengths[rows], kind="stable")]
            found.append(np.array_split(ordered, math.ceil(len(rows) / self.config.micro_batch_size)))
        return found

    def _batch(self, rollout: Rollout, rows: np.ndarray) -> SequenceBatch:
        return SequenceBatch.from_arrays(
            rollout.tokens[rows],
            rollout.prompt_lengths[rows],
            rollout.lengths[rows],
            rollout.action_mask[rows],
            None if rollout.allowed is None else rollout.allowed[rows],
            device=self.policy.device,
        )

    @torch.no_grad()
    def _reference_logprobs(self, batch: SequenceBatch) -> torch.Tensor:
        policy = self.reference or self.policy
        with self.policy.without_adapter() if self.reference is None else nullcontext():
            return policy.evaluate(batch, temperature=self.config.temperature).logprobs

    @torch.no_grad()
    def _targets(self, rollout: Rollout, parts: list[np.ndarray], batches: list[SequenceBatch]) -> Targets:
        """Log-probs, values, rewards with KL, and advantages of the whole iteration."""
        config, device = self.config, self.policy.device
        mask = torch.as_tensor(rollout.action_mask, device=device)
        logprobs, values, ref_logprobs, entropy = (torch.zeros(mask.shape, device=device) for _ in range(4))
        last_values = torch.zeros(len(mask), device=device)
        for rows, batch in zip(parts, batches, strict=True):
            width = batch.response_mask.shape[1]
            scores = self.policy.evaluate(batch, temperature=config.temperature, entropy=True)
            logprobs[rows, :width], values[rows, :width] = scores.logprobs, scores.values.float()
            entropy[rows, :width] = scores.entropy
            last_values[rows] = scores.last_values.float()
            ref_logprobs[rows, :width] = self._reference_logprobs(batch)
        log_ratio = logprobs - ref_logprobs
        penalty = self.kl.coef * ESTIMATORS[config.kl_estimator](log_ratio)
        rewards = torch.as_tensor(rollout.rewards, device=device) - torch.where(mask, penalty, 0.0)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        bootstrap = torch.where(torch.as_tensor(rollout.truncated, device=device), last_values, 0.0)
        advantages, returns = gae(rewards, values, bootstrap, mask, gamma=config.gamma, gae_lambda=config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        return Targets(mask, logprobs, values, log_ratio, advantages, returns, entropy)

    def _update(
        self, minibatches: list[list[np.ndarray]], batches: list[SequenceBatch], targets: Targets
    ) -> list[dict[str, float]]:
        """Epochs of minibatch steps; returns what each step measured."""
        rng = np.random.default_rng([self.config.seed, self.iteration, 7])
        first = np.cumsum([0, *(len(parts) for parts in minibatches)])
        measured: list[dict[str, float]] = []
        for _ in range(self.config.epochs):
            for i in rng.permutation(len(minibatches)):
                measured.append(self._step(minibatches[i], batches[first[i] : first[i + 1]], targets))
                if not self._checked:
                    checks.check_first_ratio(measured[0]["policy/ratio"], measured[0]["policy/approx_kl"])
                    self.checks["first ratio is 1 and approx-KL 0"] = self._checked = True
            limit = self.config.target_kl
            if limit is not None and measured[-1]["policy/approx_kl"] > 1.5 * limit:
                break
        return measured

    def _step(self, parts: list[np.ndarray], batches: list[SequenceBatch], targets: Targets) -> dict[str, float]:
        """One optimiser step on a minibatch, its gradient summed over micro-batches, averaged over its tokens."""
        config = self.config
        total = sum(int(batch.response_mask.sum()) for batch in batches)
        measured: dict[str, float] = {}
        for rows, batch in zip(parts, batches, strict=True):
            mask, width = batch.response_mask, batch.response_mask.shape[1]
            scores = self.policy.evaluate(batch, temperature=config.temperature, entropy=config.ent_coef != 0)
            policy = clipped_policy_loss(
                scores.logprobs,
                targets.logprobs[rows, :width],
                targets.advantages[rows, :width],
                mask,
                clip_range=config.clip_range,
            )
            value_loss = clipped_value_loss(
                scores.values,
                targets.values[rows, :width],
                targets.returns[rows, :width],
                mask,
                clip_range_vf=config.clip_range_vf,
            )
            entropy = masked_mean(scores.entropy, mask)
            loss = policy.loss + config.vf_coef * value_loss - config.ent_coef * entropy
            weight = int(mask.sum()) / total
            (loss * weight).backward()
            self.policy.compute.pull_gradients()
            figures = {
                "loss/policy": policy.loss,
                "loss/value": value_loss,
                "policy/approx_kl": policy.approx_kl,
                "policy/clip_fraction": policy.clip_fraction,
                "policy/ratio": policy.ratio,
            }
            for name, value in figures.items():
                measured[name] = measured.get(name, 0.0) + weight * value.item()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
        measured["policy/grad_norm"] = norm.item()
        last = self.run.checkpoints(self.stage).latest() if self.run is not None else None
        checks.check_finite(measured, f"update of iteration {self.iteration}", last_checkpoint=last)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.compute.push_weights()
        return measured

    def _metrics(
        self, rollout: Rollout, targets: Targets, steps: list[dict[str, float]], kl: float
    ) -> dict[str, float]:
        scores = rollout.scores
        lengths = rollout.action_mask.sum(1)
        cut = np.array([episode.finish_reason.name == "LENGTH" for episode in rollout.episodes])
        mean = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        return {
            "objective/score": float(scores.mean()),
            "objective/score_std": float(scores.std()),
            "objective/kl": kl,
            "objective/kl_coef": self.kl.coef,
            "objective/rlhf_reward": float(scores.mean()) - self.kl.coef * kl,
            "objective/entropy": float(masked_mean(targets.entropy, targets.mask)),
            "rollout/response_tokens": float(lengths.mean()),
            "rollout/truncated_fraction": float(cut.mean()),
            "val/explained_variance": explained_variance(targets.values, targets.returns, targets.mask),
            "val/mean": float(masked_mean(targets.values, targets.mask)),
            "policy/ratio_first": steps[0]["policy/ratio"],
            "policy/sampler_mismatch": float(
                np.abs(rollout.behaviour_logprobs - targets.logprobs.cpu().numpy())[rollout.action_mask].mean()
            ),
        } | mean

    def _check_first(
        self, rollout: Rollout, parts: list[np.ndarray], batches: list[SequenceBatch], targets: Targets
    ) -> None:
        """What must hold in the first iteration of every process, before the first update; see :mod:`agents.checks`."""
        if self._own_reference and self.iteration == 0:
            checks.check_own_reference(targets.log_ratio, targets.mask)
            self.checks["KL(reference‖reference) is 0"] = True
        low_precision = self.policy.compute.dtype is not None or self.policy.causal_lm.dtype != torch.float32
        tolerance = 0.1 if low_precision else 1e-3
        rows = np.array([parts[0][0], parts[-1][-1]])
        with torch.no_grad():
            alone = self.policy.evaluate(self._batch(rollout, rows), temperature=self.config.temperature).logprobs
        width = alone.shape[1]
        together, mask = targets.logprobs[rows, :width], targets.mask[rows, :width]
        checks.check_batch_invariance(together, alone, mask, tolerance=tolerance)
        self.checks["log-probs do not depend on the batch"] = True
        learned = targets.logprobs.cpu().numpy()
        checks.check_sampler(rollout.behaviour_logprobs, learned, rollout.action_mask, tolerance=tolerance)
        self.checks["sampler and learner agree"] = True
        dense = any(episode.rewards is not None for episode in rollout.episodes)
        if not dense and self.envs is self.collector.core:
            checks.check_score_placement(rollout.rewards, rollout.scores, rollout.action_mask)
            self.checks["score on the last action token"] = True

    # --- state on disk ------------------------------------------------------------------------------------------------

    def _write_state(self, folder: Path) -> None:
        tensors = {f"policy/{name}": p for name, p in self.policy.named_parameters() if p.requires_grad}
        meta = {
            "iteration": self.iteration,
            "episodes": self.episodes,
            "tokens": self.tokens,
            "kl": self.kl.get_state(),
            "reference": self._reference_sum,
            "prompts": self.collector.core.get_prompt_state(),
            "checks": self.checks,
        }
        save_state(folder, tensors | optimizer_tensors(self.optimizer), meta)

    def _read_state(self, folder: Path) -> None:
        tensors, meta = load_state(folder)
        if not math.isclose(meta["reference"], self._reference_sum, rel_tol=1e-6):
            raise CheckpointError(
                f"`{folder}` was trained against another reference model; resume it with the one that it started from"
            )
        with torch.no_grad():
            for name, p in self.policy.named_parameters():
                if p.requires_grad:
                    saved = tensors.get(f"policy/{name}")
                    if saved is None or saved.shape != p.shape:
                        raise CheckpointError(f"`{folder}` does not fit this model (weight `{name}`)")
                    p.copy_(saved)
        self.policy.compute.push_weights()
        load_optimizer_tensors(self.optimizer, tensors)
        self.iteration, self.episodes, self.tokens = meta["iteration"], meta["episodes"], meta["tokens"]
        self.kl.set_state(meta["kl"])
        self.checks = meta["checks"]
        self.collector.core.set_prompt_state(meta["prompts"])

    def _resume_run(self) -> None:
        if self.run is None or self.iteration:
            return
        latest = self.run.checkpoints(self.stage).latest()
        if latest is not None:
            self._read_state(latest)
        self.run.rewind(self.stage, self.iteration)

    def save(self, folder: str | Path) -> None:
        """Write policy, critic, optimiser, controller, prompt order and reference; :meth:`load` goes on from there."""
        folder = Path(folder)
        self.policy.save_pretrained(folder / "policy")
        if self.reference is not None:
            self.reference.save_pretrained(folder / "reference")
        dtype = "float32" if self.policy.compute.dtype is None else "bfloat16"
        self._write_state(folder / "learner")
        save_state(folder, {}, {"config": asdict(self.config), "stage": self.stage, "dtype": dtype})

    @classmethod
    def load(cls, folder: str | Path, envs: VectorEnv) -> PPO:
        """Go on from what :meth:`save` wrote; on the same environment and machine with the same numbers.

        Raises:
            CheckpointError: If the folder is not complete.
        """
        folder = Path(folder)
        if not (folder / "reference").is_dir():
            raise CheckpointError(f"`{folder}` holds no reference; a LoRA learner is resumed through its run folder")
        _, meta = load_state(folder)
        policy = CausalLMPolicy.from_pretrained(folder / "policy", dtype=meta["dtype"])
        reference = CausalLMPolicy.from_pretrained(folder / "reference", dtype=meta["dtype"])
        agent = cls(policy, envs, reference=reference, config=PPOConfig(**meta["config"]), stage=meta["stage"])
        agent._read_state(folder / "learner")
        return agent


def frozen_copy(policy: CausalLMPolicy) -> CausalLMPolicy:
    """A copy of a policy whose weights take no gradient, for use as reference."""
    import copy

    twin = copy.deepcopy(policy)
    twin.requires_grad_(False)
    return twin
