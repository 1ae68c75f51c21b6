"""The loop that all on-policy algorithms share: rollout → scored experience → update → metrics → checkpoint.

Left out on purpose: what makes an algorithm. Its advantage estimator and its loss are functions that the learner is
given; rewards belong to the environment, and text appears nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.formulas.advantages import check_same_shape
from agents.formulas.losses import token_weights
from agents.learning import checks, metrics
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience, assess, old_tokens
from agents.learning.held_out import HeldOut
from agents.learning.minibatches import MiniBatch, deal
from agents.learning.protocols import AdvantageEstimator, Callback, Loss
from agents.learning.ptx import PtxBatches, ptx_backward
from agents.learning.reference import Reference
from agents.learning.rollouts import Collector, PromptOrder, Rollout, take_over
from agents.learning.wrapper_states import set_states, stateful, stateful_layers
from agents.policy import CausalLMPolicy, files, sharding
from textenv.checkpoints import Checkpoints, load_state, save_state, write_atomic
from textenv.errors import CheckpointError, ConfigError, RewardError, RunCheckError
from textenv.memory import keep_freed_memory
from textenv.runs import Run
from textenv.training.trainer import State, Trainer, make_optimizer
from textenv.training.world import World
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
        checks.check_settings(
            self.config,
            envs,
            name=type(self).__name__,
            uses_critic=self.uses_critic,
            has_ptx=ptx is not None,
            processes=self.world.size,
        )
        if held_out is not None:
            held_out.make_room(take_over(envs))
        self.collector = Collector(policy, envs, temperature=self.config.temperature, seed=self.config.seed)
        if sharding.wanted(self.world):
            self._shard()
        self.optimizer = make_optimizer(
            policy.parameters(), learning_rate=self.config.learning_rate, eps=self.config.adam_eps
        )
        self.trainer = Trainer(
            self,
            self.config,
            self.optimizer,
            push=policy.push_weights,
            run=run,
            stage=self.stage,
            world=self.world,
        )
        policy.answer = self.collector.core.task.answer  # what it is taught from now on, and is stored with it
        self.prompts = PromptOrder(self.collector.core.task.prompts, self.config.seed)
        self.kl = make_controller(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon)
        self.episodes = 0
        self.tokens = 0
        self.checks: dict[str, bool] = {}
        self.checked = False
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
    def iteration(self) -> int:
        """Iterations done, those before a resume included."""
        return self.trainer.step

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
        self.trainer.resume()
        per_iteration = self.episodes_per_iteration
        left = max(math.ceil((total_episodes - self.episodes) / per_iteration), 0)
        self.trainer.fit(
            self.iteration + left,
            offset=self.episodes / per_iteration - self.iteration,  # earlier ones may have been larger or smaller
            callbacks=[*self.callbacks, *([callback] if callback else [])],
        )
        return self

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One iteration: rollout, rewards, advantages, updates. Returns its metrics.

        Raises:
            RewardError: If the reward function fails. Nothing has changed then: the next iteration is this one.
            RunCheckError: If a check of the run fails or a figure stops being finite.
        """
        clock, config = metrics.Clock(), self.config
        # 1. Play an episode in every slot; log-probs, values and rewards with the KL's price; advantages.
        experience, estimated, minibatches = self._prepare(clock)
        self.experience, self.estimated = experience, estimated
        # 2. Epochs of optimiser steps over shuffled minibatches, until the policy has moved too far.
        rng, steps = np.random.default_rng([config.seed, self.iteration, 7]), []
        with clock.phase("update"):
            for _ in range(config.epochs):
                for i in rng.permutation(len(minibatches)):
                    if minibatches[i].rows:  # else no answer in it counts
                        steps.append(self.update(experience, estimated, minibatches[i], learning_rate))
                if config.target_kl is not None and steps and steps[-1]["policy/approx_kl"] > 1.5 * config.target_kl:
                    break
        # 3. What was seen, and what moves once an iteration.
        measured = metrics.summarize(experience, estimated, steps, config, uses_critic=self.uses_critic)
        self.kl.update(self.world.gather(experience.kl_per_sequence).cpu().numpy())
        self.trainer.step += 1
        self.episodes += self.episodes_per_iteration
        new_tokens = int(measured.pop("rollout/new_tokens"))
        self.tokens += new_tokens
        if config.reference_update == "ema":
            self.reference.move(decay=config.reference_decay)
        elif config.reference_update == "copy" and self.iteration % config.reference_every == 0:
            self.reference.move(decay=0.0)
        totals = {"rollout/episodes": float(self.episodes), "rollout/tokens": float(self.tokens)}
        return measured | {"policy/learning_rate": learning_rate} | totals | clock.metrics(new_tokens)

    def update(
        self, experience: Experience, estimated: Advantages, minibatch: MiniBatch, learning_rate: float | None = None
    ) -> dict[str, float]:
        """One optimiser step on a minibatch, its gradient summed over micro-batches, PTX batch and processes.

        Args:
            experience: The iteration's.
            estimated: Its advantages and returns.
            minibatch: Which of it.
            learning_rate: Of the step; None takes the optimiser's.

        Returns:
            The means of the loss's figures over the minibatch's tokens, and the gradient norm.

        Raises:
            ConfigError: If the loss does not report what the learner checks itself by.
            RunCheckError: If a figure is not finite, or the first ratio of all is not 1.
        """
        config, sums, row_losses = self.config, {}, {}
        for part in minibatch.parts:
            # 1. What the policy says now of the tokens it chose, beside what it said then.
            new = self.policy.evaluate(
                part.batch, temperature=config.temperature, entropy=config.ent_coef != 0, values=self.uses_critic
            )
            old = old_tokens(experience, estimated, part)
            # 2. The algorithm's loss of each token, averaged over the minibatch, and its gradient.
            loss = self.loss(new, old, config)
            counted = old.counted_mask & (not part.is_filler)
            weights = token_weights(
                counted,
                config.loss_aggregation,
                tokens=minibatch.tokens,
                rows=minibatch.rows,
                max_tokens=self.collector.core.task.max_new_tokens,
            )
            losses = (torch.where(counted, loss.total, 0.0) * weights).sum(1)
            (losses.sum() * self.world.loss_scale).backward()
            self.policy.pull_gradients()
            row_losses |= dict(zip(part.rows.tolist(), losses.detach(), strict=True))
            for name, figure in loss.figures.items():
                mean = torch.where(counted, figure.detach(), 0.0).sum() / minibatch.tokens
                sums[name] = sums[name] + mean if name in sums else mean
        # 3. The gradient of pre-training texts, where they are mixed in.
        if self.ptx is not None:
            sums["loss/ptx"] = ptx_backward(
                self.policy,
                self.ptx.batch(self.trainer.updates),
                coef=config.ptx_coef,
                micro_batch_size=config.micro_batch_size,
                world=self.world,
            )
        checks.check_reported(sums)
        measured = dict(zip(sums, self.world.sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        if not self.checked:
            checks.check_first_ratio(measured["policy/ratio"], measured["policy/approx_kl"])
        if self.iteration < config.critic_warmup_iterations:
            self.policy.drop_actor_gradients()
        # 4. Clip the gradient and take the step, if everything is finite.
        measured["policy/grad_norm"] = self.trainer.optimize(
            self.optimizer.param_groups[0]["lr"] if learning_rate is None else learning_rate,
            measured,
            blame=lambda: checks.describe_losses(row_losses, experience.rollout),
        )
        self.checks["first ratio is 1 and approx-KL 0"] = self.checked = True
        return measured

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Measure the policy on held-out prompts, and keep it where it is the best so far."""
        if self.held_out is None:
            return {}
        with sharding.whole(self.policy, self.world):
            figures = self.held_out.measure(self.policy, self.reference, self.collector, self.config)
        if self.trainer.best.see(figures["eval/reward"], self.iteration) and self.run is not None:
            self._keep_best(self.run)
        assert self.trainer.best.value is not None
        return figures | {"eval/best_reward": self.trainer.best.value}

    def shown(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Score and KL, for the line of progress."""
        return {n: figures[f"objective/{n}"] for n in ("score", "kl") if f"objective/{n}" in figures}

    # --- an iteration's experience ------------------------------------------------------------------------------------

    def _prepare(self, clock: metrics.Clock) -> tuple[Experience, Advantages, list[MiniBatch]]:
        """The next episodes with all that the update learns from them; where that fails, nothing has changed."""
        dealt = self.prompts.deal(self.episodes_per_iteration, self.config.group_size)
        before = [layer.get_state() for layer in stateful_layers(self.envs)]
        try:
            first = self.world.rank * self.envs.num_envs
            with clock.phase("rollout"):
                rollout = self._collect(self.episodes + first, dealt[first : first + self.envs.num_envs])
            self._stop_if_broken("rollout", rollout, behaviour_logprobs=torch.as_tensor(rollout.behaviour_logprobs))
            minibatches = self.deal(rollout)
            with clock.phase("scoring"):
                experience = self.assess(rollout, minibatches)
            named = ("logprobs", "ref_logprobs", "values", "last_values", "entropy", "rewards")
            self._stop_if_broken("scoring", rollout, **{name: getattr(experience, name) for name in named})
            if not self.checked:
                self.checks |= checks.check_experience(
                    self.policy,
                    experience,
                    minibatches,
                    self.config,
                    own_reference=self.reference.is_own and self.iteration == 0,
                    bare=self.envs is self.collector.core,
                )
            estimated = self.estimate(experience)
            self._stop_if_broken("advantage estimation", rollout, **estimated._asdict())
        except BaseException:
            self.prompts.give_back(dealt, self.config.group_size)
            for layer, state in zip(stateful_layers(self.envs), before, strict=True):
                layer.set_state(state)
            raise
        return experience, estimated, minibatches

    def _collect(self, first_episode: int, prompts: NDArray[np.int64]) -> Rollout:
        try:
            with sharding.whole(self.policy, self.world):
                return self.collector.collect(first_episode, prompts)
        except (RunCheckError, RewardError) as error:
            where, last = f"rollout of iteration {self.iteration}", self.trainer.last_checkpoint or "none"
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
        estimated = self.advantage_estimator(experience, self.config)
        check_same_shape("action_mask", experience.action_mask, advantages=estimated.advantages)
        if estimated.returns is not None:
            check_same_shape("action_mask", experience.action_mask, returns=estimated.returns)
        return Advantages(torch.where(experience.counted_mask, estimated.advantages, 0.0), estimated.returns)

    def _stop_if_broken(self, phase: str, rollout: Rollout, **tensors: torch.Tensor | None) -> None:
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        where = f"{phase} of iteration {self.iteration}"
        checks.check_finite_rows(present, rollout, where, last_checkpoint=self.trainer.last_checkpoint)

    # --- state on disk ------------------------------------------------------------------------------------------------

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What is trained, and a reference that moves."""
        yield from ((f"policy/{name}", p) for name, p in self.policy.named_parameters() if p.requires_grad)
        if self.reference.moves and self.reference.model is not None:
            yield from ((f"reference/{name}", p) for name, p in self.reference.model.named_parameters())

    def get_state(self) -> State:
        """Counters, controller, prompt order, and the states of wrappers and callbacks."""
        wrappers = [layer.get_state() for layer in stateful_layers(self.envs)]
        meta = {
            "episodes": self.episodes,
            "tokens": self.tokens,
            "kl": self.kl.get_state(),
            "reference": self.reference.origin,
            "prompts": self.prompts.get_state(),
            "checks": self.checks,
            "environment": self.world.gather_objects(wrappers),
            "callbacks": [part.get_state() for part in stateful(self.callbacks)],
        }
        return State({}, meta)

    def set_state(self, state: State, folder: Path) -> None:
        """Put back what :meth:`get_state` gave.

        Raises:
            CheckpointError: If it belongs to another reference, or to other wrappers and callbacks.
        """
        meta = state.meta
        if not math.isclose(meta["reference"], self.reference.origin, rel_tol=1e-6):
            raise CheckpointError(
                f"`{folder}` was trained against another reference model; resume it with the one that it started from"
            )
        self.episodes, self.tokens, self.checks = meta["episodes"], meta["tokens"], meta["checks"]
        self.kl.set_state(meta["kl"])
        self.prompts.set_state(meta["prompts"])
        wrappers, processes = stateful_layers(self.envs), meta["environment"]
        if wrappers and len(processes) != self.world.size:
            raise CheckpointError(
                f"`{folder}` holds the wrappers' states of {len(processes)} process(es), there are {self.world.size} "
                "now; resume with as many"
            )
        set_states(wrappers, processes[self.world.rank % len(processes)], "environment", folder)
        set_states(stateful(self.callbacks), meta["callbacks"], "callbacks", folder)

    def _keep_best(self, run: Run) -> None:
        """Keep the policy in ``<stage>/best/step-…``, in place of the one before; all processes take part."""
        weights = files.gathered(self.policy.parts) if self.world.sharded else None

        def fill(folder: Path) -> None:
            files.save(self.policy.parts, folder, weights)
            score = {"iteration": self.iteration, "eval/reward": self.trainer.best.value}
            write_atomic(folder / "score.json", json.dumps(score))

        if self.world.is_main:
            Checkpoints(run.stage(self.stage) / "best", keep=1).save(self.iteration, fill)
        self.world.barrier()

    def save(self, folder: str | Path) -> None:
        """Write policy, critic, optimiser, controller, prompt order and reference; :meth:`load` goes on from there.

        Raises:
            ConfigError: If FSDP divides the weights.
        """
        if self.world.sharded:
            raise ConfigError(
                "an agent divided by FSDP is not saved as a folder; give it a `run`, whose checkpoints resume"
            )
        state, folder = self.trainer.state(), Path(folder)
        if self.world.is_main:
            reference = self.reference.model
            meta = {"config": asdict(self.config), "stage": self.stage, "own_reference": reference is not None}
            meta |= self.policy.save_for_learner(folder)
            if reference is not None:
                reference.save_pretrained(folder / "reference")
                meta["reference_dtype"] = reference.dtype_name
            save_state(folder / "learner", *state)
            save_state(folder, {}, meta)
        self.world.barrier()

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
        _, meta = load_state(Path(folder))
        policy = CausalLMPolicy.load_for_learner(Path(folder), meta, device)
        reference = None
        if meta["own_reference"]:
            dtype = meta.get("reference_dtype", meta["dtype"])
            reference = CausalLMPolicy.from_pretrained(Path(folder) / "reference", dtype=dtype, device=device)
        agent = cls(
            policy,
            envs,
            reference=reference,
            config=cls.config_type(**meta["config"]),
            advantage_estimator=advantage_estimator,
            loss=loss,
            ptx=ptx,
            held_out=held_out,
            callbacks=callbacks,
            run=run,
            stage=meta["stage"],
        )
        agent.trainer.read(Path(folder) / "learner")
        return agent
