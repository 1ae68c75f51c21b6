"""The loop that all on-policy algorithms share: rollout → scored experience → update → metrics → checkpoint.

Left out on purpose: what makes an algorithm. Its advantage estimator and its loss are functions that the learner is
given; rewards belong to the environment, and text appears nowhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.advantages import check_same_shape
from agents.learning import checks, metrics, sharding, state
from agents.learning.assessment import assess
from agents.learning.clock import Clock
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience
from agents.learning.held_out import HeldOut
from agents.learning.minibatches import MiniBatch, deal
from agents.learning.protocols import AdvantageEstimator, Callback, Loss
from agents.learning.ptx import PtxBatches, ptx_backward
from agents.learning.reference import Reference
from agents.learning.update import accumulate
from agents.learning.world import World
from agents.policy import CausalLMPolicy
from agents.rollouts import Collector, PromptOrder, Rollout, take_over
from textenv.errors import RewardError, RunCheckError
from textenv.memory import keep_freed_memory
from textenv.progress import StageProgress
from textenv.runs import Run
from textenv.wrappers.kl import make_controller

C = TypeVar("C", bound=LearnerConfig)


class Learner(Generic[C]):
    """Optimises a language model on text-generation environments.

    An algorithm is a subclass that only names its configuration, its advantage estimator and its loss, as class
    attributes; it overrides no method. (Subclassing keeps one constructor, one ``load`` and one type per algorithm;
    everything that varies is a function and can also be given as an argument.)

    Args:
        policy: Trained in place.
        envs: textenv's vector environment, wrapped or not; put into ``AutoresetMode.DISABLED``.
        reference: The policy that the KL is measured against; None means the policy as it stands now: its adapter
            switched off, or one frozen copy.
        config: Settings.
        advantage_estimator: Replaces the algorithm's own.
        loss: Replaces the algorithm's own.
        ptx: Batches of text whose language-modelling gradient is mixed in with ``ptx_coef``; see
            :class:`agents.learning.ptx.PtxBatches`.
        held_out: Prompts to be measured on every ``eval_every`` iterations; with a run, the best policy is kept.
        callbacks: Called with the agent and the metrics after every iteration. One with ``get_state()`` and
            ``set_state(state)`` is part of the checkpoints.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs and of the folder in the run; None takes the algorithm's name.
        world: The processes that train together; None finds out how this one was started. Each has ``num_envs`` slots
            of its own; only the first writes.

    Raises:
        ConfigError: If environment, policy and settings do not fit together.
    """

    config_type: ClassVar[type[Any]] = LearnerConfig
    default_estimator: ClassVar[AdvantageEstimator]
    default_loss: ClassVar[Loss]
    uses_critic: ClassVar[bool] = False
    default_stage: ClassVar[str]

    def __init__(
        self,
        policy: CausalLMPolicy,
        envs: VectorEnv,
        *,
        reference: CausalLMPolicy | None = None,
        config: C | None = None,
        advantage_estimator: AdvantageEstimator | None = None,
        loss: Loss | None = None,
        ptx: Any = None,
        held_out: HeldOut | None = None,
        callbacks: Sequence[Callback] = (),
        run: Run | None = None,
        stage: str | None = None,
        world: World | None = None,
    ) -> None:
        if policy.device.type == "cpu":
            keep_freed_memory()
        self.policy = policy
        self.envs = envs
        self.config: C = config if config is not None else self.config_type()
        self.advantage_estimator = advantage_estimator or type(self).default_estimator
        self.loss = loss or type(self).default_loss
        self.held_out = held_out
        self.ptx = None if ptx is None else PtxBatches(ptx)
        self.callbacks = list(callbacks)
        self.run = run
        self.stage = stage or self.default_stage
        self.world = World.current(policy.device) if world is None else world
        self._share_start()
        self.reference = Reference(policy, reference, moves=self.config.reference_update != "none")
        checks.check_settings(self)
        if held_out is not None:
            held_out.make_room(take_over(envs))
        self.collector = Collector(policy, envs, temperature=self.config.temperature, seed=self.config.seed)
        if sharding.wanted(self.world):
            self._shard()
        self.optimizer = torch.optim.Adam(
            [p for p in policy.parameters() if p.requires_grad],
            lr=self.config.learning_rate,
            eps=self.config.adam_eps,
            fused=policy.device.type == "cpu" or None,
        )
        policy.answer = self.collector.core.task.answer  # what it is taught from now on, and is stored with it
        self.prompts = PromptOrder(self.collector.core.task.prompts, self.config.seed)
        self.kl = make_controller(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon)
        self.iteration = 0
        self.episodes = 0
        self.tokens = 0
        self.updates = 0
        self.checks: dict[str, bool] = {}
        self.checked = False
        self.best: float | None = None
        self._unfinished: dict[str, float] | None = None  # figures of an iteration that is still to be evaluated
        self.experience: Experience | None = None
        self.estimated: Advantages | None = None
        self.envs.reset(seed=self.config.seed)

    def _share_start(self) -> None:
        """Let all processes start from the first one's weights: an adapter is drawn at random in each."""
        self.world.share_weights(p for p in self.policy.parameters() if p.requires_grad)
        self.policy.push_weights()

    def _shard(self) -> None:
        self.world.sharded = True
        sharding.shard(self.policy, self.world)
        if self.reference.model is not None:
            sharding.shard(self.reference.model, self.world)

    @property
    def episodes_per_iteration(self) -> int:
        """Episodes of one iteration, in all processes."""
        return self.envs.num_envs * self.world.size

    # --- training -----------------------------------------------------------------------------------------------------

    def learn(self, total_episodes: int, callback: Callback | None = None) -> Self:
        """Train until this many episodes have been played in all, those before a resume included.

        The last iteration is checkpointed too, so that a later call or run can go on to more episodes. Where an
        iteration fails before its update (a reward raises), the next call plays it again, as if nothing had happened.

        Args:
            total_episodes: Also the horizon of the learning-rate schedule, whatever the number of slots.
            callback: Called with the agent and the metrics after every iteration, after the constructor's callbacks.

        Returns:
            The agent itself.

        Raises:
            RunCheckError: If a check of the run fails or a figure stops being finite.
        """
        if self.run is not None:
            state.resume(self, self.run)
        per_iteration = self.episodes_per_iteration
        left = max(math.ceil((total_episodes - self.episodes) / per_iteration), 0)
        total, horizon = self.iteration + left, self.episodes / per_iteration + left
        began_tokens = self.tokens
        console = self.run.console if self.run is not None and self.world.is_main else None
        with StageProgress(self.stage, total, console, start=self.iteration) as progress:
            while self._unfinished is not None or self.iteration < total:
                if self._unfinished is None:
                    rate = self.config.learning_rate_at(self.episodes / per_iteration, horizon)
                    self._unfinished = self.iterate(rate)
                measured, last = self._unfinished, self.iteration >= total
                if self.held_out and (self.iteration % self.config.eval_every == 0 or last):
                    measured |= self._evaluate(self.held_out)
                self._unfinished = None
                for called in (*self.callbacks, *([callback] if callback else [])):
                    called(self, measured)
                shown = {n: measured[f"objective/{n}"] for n in ("score", "kl") if f"objective/{n}" in measured}
                progress.update(self.iteration, shown, tokens=self.tokens - began_tokens)
                if self.run is not None:
                    if self.world.is_main:
                        self.run.log(self.stage, self.iteration, measured)
                    if self.iteration % self.config.checkpoint_every == 0 or last:
                        state.save_checkpoint(self, self.run)
        return self

    def _evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Measure the policy on held-out prompts, and keep it where it is the best so far."""
        began = time.monotonic()
        with sharding.whole(self.policy, self.world):
            found = held_out.measure(self.policy, self.reference, self.collector, self.config)
        if self.best is None or found["eval/reward"] > self.best:
            self.best = found["eval/reward"]
            if self.run is not None:
                state.keep_best(self, self.run)
        return found | {"eval/best_reward": self.best, "time/evaluation_seconds": time.monotonic() - began}

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One iteration: rollout, advantages, update. Returns its metrics.

        Raises:
            RewardError: If the reward function fails. Nothing has changed then: the next iteration is this one.
            RunCheckError: If a check of the run fails or a figure stops being finite.
        """
        clock = Clock()
        dealt = self.prompts.deal(self.episodes_per_iteration, self.config.group_size)
        layers = state.layer_states(self.envs)
        try:
            experience, estimated, minibatches = self._prepare(dealt, clock)
        except BaseException:
            self.prompts.give_back(dealt, self.config.group_size)
            for layer, before in zip(state.stateful_layers(self.envs), layers, strict=True):
                layer.set_state(before)
            raise
        self.experience, self.estimated = experience, estimated
        with clock.phase("update"):
            steps = self._update(experience, estimated, minibatches, learning_rate)
        measured = metrics.summarize(self, experience, estimated, steps)
        measured["policy/learning_rate"] = learning_rate
        self.kl.update(self.world.gather(experience.kl_per_sequence).cpu().numpy())
        self.iteration += 1
        self.episodes += self.episodes_per_iteration
        self.tokens += int(measured["rollout/new_tokens"])
        self._move_reference()
        measured["rollout/episodes"] = float(self.episodes)
        measured["rollout/tokens"] = float(self.tokens)
        return measured | clock.metrics(int(measured.pop("rollout/new_tokens")))

    def _prepare(self, dealt: NDArray[np.int64], clock: Clock) -> tuple[Experience, Advantages, list[MiniBatch]]:
        """Answers to these prompts (of all processes), with all that the update learns from them."""
        first = self.world.rank * self.envs.num_envs
        with clock.phase("rollout"):
            rollout = self._collect(self.episodes + first, dealt[first : first + self.envs.num_envs])
        self._stop_if_broken("rollout", rollout, {"behaviour_logprobs": torch.as_tensor(rollout.behaviour_logprobs)})
        minibatches = self.deal(rollout)
        with clock.phase("scoring"):
            experience = self.assess(rollout, minibatches)
        named = ("logprobs", "ref_logprobs", "values", "last_values", "entropy", "rewards")
        self._stop_if_broken("scoring", rollout, {name: getattr(experience, name) for name in named})
        if not self.checked:
            checks.check_experience(self, experience, minibatches)
        estimated = self.estimate(experience)
        self._stop_if_broken(
            "advantage estimation", rollout, dict(zip(("advantages", "returns"), estimated, strict=True))
        )
        return experience, estimated, minibatches

    def _collect(self, first_episode: int, prompts: NDArray[np.int64]) -> Rollout:
        try:
            with sharding.whole(self.policy, self.world):
                return self.collector.collect(first_episode, prompts)
        except (RunCheckError, RewardError) as error:
            where, last = f"rollout of iteration {self.iteration}", self._last_checkpoint() or "none"
            raise type(error)(f"{where}: {error}; last good checkpoint: {last}") from error

    def deal(self, rollout: Rollout) -> list[MiniBatch]:
        """The rollout's rows in this iteration's minibatches."""
        return deal(
            rollout,
            num_minibatches=self.config.num_minibatches,
            micro_batch_size=self.config.micro_batch_size,
            rng=np.random.default_rng([self.config.seed, self.iteration, 11]),
            world=self.world,
            device=self.policy.device,
            counted=rollout.counted(uses_critic=self.uses_critic),
        )

    def assess(self, rollout: Rollout, minibatches: list[MiniBatch]) -> Experience:
        """Log-probs, values and the learner's rewards of a rollout, before the update."""
        return assess(
            self.policy,
            self.reference,
            rollout,
            minibatches,
            self.config,
            kl_coef=self.kl.coef,
            uses_critic=self.uses_critic,
            world=self.world,
        )

    @torch.no_grad()
    def estimate(self, experience: Experience) -> Advantages:
        """The advantage estimator's answer, zeros off the mask.

        Raises:
            ShapeError: If it does not return one number per token.
        """
        found = self.advantage_estimator(experience, self.config)
        check_same_shape("mask", experience.mask, advantages=found.advantages)
        if found.returns is not None:
            check_same_shape("mask", experience.mask, returns=found.returns)
        return Advantages(torch.where(experience.counted_mask, found.advantages, 0.0), found.returns)

    def _update(
        self, experience: Experience, estimated: Advantages, minibatches: list[MiniBatch], learning_rate: float
    ) -> list[dict[str, float]]:
        """Epochs of minibatch steps; returns what each step measured. Where no answer counts, there is no step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        rng = np.random.default_rng([self.config.seed, self.iteration, 7])
        steps: list[dict[str, float]] = []
        for _ in range(self.config.epochs):
            for i in rng.permutation(len(minibatches)):
                if not minibatches[i].rows:
                    continue
                steps.append(self.step(experience, estimated, minibatches[i]))
                if not self.checked:
                    checks.check_first_ratio(steps[0]["policy/ratio"], steps[0]["policy/approx_kl"])
                    self.checks["first ratio is 1 and approx-KL 0"] = self.checked = True
            limit = self.config.target_kl
            if limit is not None and steps and steps[-1]["policy/approx_kl"] > 1.5 * limit:
                break
        return steps

    def step(self, experience: Experience, estimated: Advantages, minibatch: MiniBatch) -> dict[str, float]:
        """One optimiser step on a minibatch, its gradient summed over micro-batches, PTX batch and processes.

        Returns:
            The means of the loss's figures over the minibatch's tokens, and the gradient norm.
        """
        summed = accumulate(
            self.policy,
            self.loss,
            self.config,
            experience,
            estimated,
            minibatch,
            uses_critic=self.uses_critic,
            max_tokens=self.collector.core.task.max_new_tokens,
        )
        names, total = list(summed.figures), torch.stack(list(summed.figures.values()))
        if self.ptx is not None:
            share = ptx_backward(
                self.policy,
                self.ptx.batch(self.updates),
                coef=self.config.ptx_coef,
                micro_batch_size=self.config.micro_batch_size,
                world=self.world,
            )
            names, total = [*names, "loss/ptx"], torch.cat([total, share[None]])
        measured = dict(zip(names, self.world.sum(total).tolist(), strict=True))
        if self.iteration < self.config.critic_warmup_iterations:
            self.policy.drop_actor_gradients()
        self.world.reduce_gradients(self.policy.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        measured["policy/grad_norm"] = float(sharding.full(norm))
        if not math.isfinite(sum(measured.values())):
            losses = {row: float(loss) for row, loss in summed.row_losses.items()}
            where, last = f"update of iteration {self.iteration}", self._last_checkpoint()
            checks.check_finite_step(measured, losses, experience.rollout, where, last_checkpoint=last)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.push_weights()
        self.updates += 1
        return measured

    def _stop_if_broken(self, phase: str, rollout: Rollout, tensors: Mapping[str, torch.Tensor | None]) -> None:
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        where = f"{phase} of iteration {self.iteration}"
        checks.check_finite_rows(present, rollout, where, last_checkpoint=self._last_checkpoint())

    def _last_checkpoint(self) -> Path | None:
        return None if self.run is None else state.checkpoints(self, self.run).latest()

    def _move_reference(self) -> None:
        config = self.config
        if config.reference_update == "ema":
            self.reference.move(decay=config.reference_decay)
        elif config.reference_update == "copy" and self.iteration % config.reference_every == 0:
            self.reference.move(decay=0.0)

    # --- state on disk ------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write policy, critic, optimiser, controller, prompt order and reference; :meth:`load` goes on from there."""
        state.save_agent(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        envs: VectorEnv,
        *,
        advantage_estimator: AdvantageEstimator | None = None,
        loss: Loss | None = None,
        ptx: Any = None,
        held_out: HeldOut | None = None,
        callbacks: Sequence[Callback] = (),
        run: Run | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Go on from what :meth:`save` wrote; on the same environment and machine with the same numbers.

        Args:
            folder: What :meth:`save` wrote.
            envs: As in the class; wrapped as it was.
            advantage_estimator: As in the class: functions, texts and callbacks are not saved.
            loss: As in the class.
            ptx: As in the class.
            held_out: As in the class.
            callbacks: As in the class; those with a state in the order in which they were.
            run: As in the class; a new one.
            device: Where policy and reference go.

        Raises:
            CheckpointError: If the folder is not complete.
        """
        hooks = state.Hooks(advantage_estimator, loss, ptx, held_out, callbacks, run)
        return state.load_agent(cls, Path(folder), envs, hooks, device)
