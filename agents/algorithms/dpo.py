"""DPO: a policy from comparisons alone, without a reward model and without sampling. The offline baseline.

The log-probs of the reference are computed once, before the first step, so one copy of the weights is enough. Left out:
the other losses on the same figures (IPO, KTO, …), and generation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray

from agents.algorithms.preference_pairs import PairBatches, TokenPair, fingerprint, tokenize_comparisons
from agents.learning.protocols import Callback
from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from agents.policy.lora import is_fresh
from reward_models.labels import Comparison
from reward_models.losses import bradley_terry
from textenv.checkpoints import load_state, save_state
from textenv.errors import CheckpointError, ConfigError, RunCheckError
from textenv.runs import Run
from textenv.settings import NonNegativeFloat, OldName, PositiveFloat, PositiveInt
from textenv.training.settings import TrainingSettings
from textenv.training.trainer import State, Trainer, make_optimizer
from textenv.training.world import World


@dataclass(frozen=True)
class DPOConfig(TrainingSettings):
    """Settings of DPO; defaults follow Rafailov et al. 2023, arXiv:2305.18290, appendix B, with Adam for RMSProp.

    Attributes:
        beta: Strength of the KL constraint: reward units per nat.
        learning_rate: Peak of Adam's learning rate.
        batch_size: Comparisons per optimiser step, in all processes.
        micro_batch_size: Comparisons per forward and backward pass.
        label_smoothing: Believed share of wrong labels, from 0 to below 0.5.
        max_grad_norm: Gradient clip; 10 is that of the authors' code.
        adam_eps: Adam's epsilon.

    Raises:
        ConfigError: If a value is out of its range.
    """

    old_names: ClassVar = {"warmup_iterations": OldName("warmup_steps")}

    beta: PositiveFloat = 0.1
    learning_rate: PositiveFloat = 1e-6
    lr_schedule: Literal["linear", "cosine", "wsd", "constant"] = "constant"
    warmup_steps: NonNegativeFloat = 150
    batch_size: PositiveInt = 64
    micro_batch_size: PositiveInt = 16
    label_smoothing: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0
    max_grad_norm: PositiveFloat = 10.0
    adam_eps: PositiveFloat = 1e-8
    checkpoint_every: PositiveInt = 20


class DPOLoss(NamedTuple):
    """The loss of a batch of comparisons and what one wants to know about it.

    Attributes:
        loss: Nats per comparison, the weighted mean, a scalar.
        chosen: Implicit rewards β·log(π/π_ref) of the preferred answers, shape ``(P,)``.
        rejected: Those of the others, shape ``(P,)``.
    """

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


def dpo_loss(
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    margin: torch.Tensor | float = 0.0,
    weights: torch.Tensor | None = None,
) -> DPOLoss:
    """Bradley-Terry likelihood of the labels with β·log(π/π_ref) as the reward.

    Args:
        logprobs: Of whole answers under the policy, preferred ones in column 0, nats, shape ``(P, 2)``.
        ref_logprobs: Under the reference, shape ``(P, 2)``.
        beta: Reward units per nat.
        label_smoothing: Believed share of wrong labels.
        margin: By how much the preferred answer's reward should at least be larger, a number or shape ``(P,)``.
        weights: Of the comparisons, shape ``(P,)``; None counts all alike.

    Raises:
        ShapeError: If the shapes disagree.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023, "A note on DPO with noisy
        preferences"; margin: Amini et al. 2024, arXiv:2402.10571.
    """
    rewards = beta * (logprobs - ref_logprobs)
    chosen, rejected = rewards.unbind(1)
    loss = bradley_terry(chosen, rejected, margin=margin, label_smoothing=label_smoothing, weights=weights)
    return DPOLoss(loss, chosen.detach(), rejected.detach())


class DPO:
    """Direct preference optimisation of a language model on a fixed set of comparisons.

    Args:
        policy: Trained in place.
        comparisons: Texts, or tokens (:class:`TokenPair`), the same ones on every process.
        reference: The policy that the KL is measured against; only its log-probs are taken, before the first step. None
            means the policy as it stands then.
        config: Settings.
        validation: Held-out comparisons, measured every ``eval_every`` iterations.
        callbacks: Called with the agent and the metrics after every iteration.
        run: Logs, progress and checkpoints; with a checkpoint there, training goes on from it.
        stage: Name in the logs and of the folder in the run.
        world: The processes that train together; None finds out how this one was started.

    Raises:
        DataError: If there are no comparisons, or one does not fit the policy's context.
        ConfigError: If there are more processes than comparisons in a batch.
    Source: Rafailov et al. 2023, arXiv:2305.18290.
    """

    def __init__(
        self,
        policy: CausalLMPolicy,
        comparisons: Sequence[Comparison | TokenPair],
        *,
        reference: CausalLMPolicy | None = None,
        config: DPOConfig | None = None,
        validation: Sequence[Comparison | TokenPair] = (),
        callbacks: Sequence[Callback] = (),
        run: Run | None = None,
        stage: str = "dpo",
        world: World | None = None,
    ) -> None:
        self.policy = policy
        self.config = config or DPOConfig()
        self.reference = reference
        train = tokenize_comparisons(comparisons, policy)
        self.pairs = [*train, *(tokenize_comparisons(validation, policy) if validation else [])]
        self.batches = PairBatches(len(train), self.config.batch_size, self.config.seed)
        self.callbacks = list(callbacks)
        self.run = run
        self.stage = stage
        self.world = World.current(policy.device) if world is None else world
        if self.config.batch_size < self.world.size:
            raise ConfigError(f"`batch_size` ({self.config.batch_size}) is below the {self.world.size} processes")
        weights = [p for p in policy.model.parameters() if p.requires_grad]
        self.world.share_weights(weights)
        policy.push_weights()
        self.optimizer = make_optimizer(weights, learning_rate=self.config.learning_rate, eps=self.config.adam_eps)
        self.trainer = Trainer(
            self,
            self.config,
            self.optimizer,
            push=policy.push_weights,
            run=run,
            stage=stage,
            world=self.world,
        )
        self.ref_logprobs: torch.Tensor | None = None
        self.tokens = 0
        self.checks: dict[str, bool] = {}

    @property
    def iteration(self) -> int:
        """Optimiser steps taken, those before a resume included."""
        return self.trainer.step

    @property
    def episodes(self) -> int:
        """Answers read so far, two to a comparison, repeated ones included."""
        return 2 * self.config.batch_size * self.iteration

    # --- training -----------------------------------------------------------------------------------------------------

    def learn(self, total_episodes: int, callback: Callback | None = None) -> Self:
        """Train until this many answers have been read in all, two to a comparison, repeated ones included.

        As :meth:`agents.learning.learner.Learner.learn`, whose arguments and checks these are.
        """
        self.trainer.resume()
        self.prepare()
        called = [*self.callbacks, *([callback] if callback else [])]
        self.trainer.fit(math.ceil(total_episodes / (2 * self.config.batch_size)), callbacks=called)
        return self

    @torch.no_grad()
    def prepare(self) -> torch.Tensor:
        """The reference's log-probs of all answers, nats, shape ``(P, 2)``; computed when first asked for."""
        if self.ref_logprobs is None:
            logprobs = torch.zeros(len(self.pairs), 2, dtype=self.policy.logprobs_in, device=self.policy.device)
            mine = np.arange(self.world.rank, len(self.pairs), self.world.size)
            for rows in self._cut(mine):
                logprobs[rows] = self._reference_logprobs(rows)
            self.ref_logprobs = self.world.sum(logprobs)
        return self.ref_logprobs

    def _reference_logprobs(self, rows: NDArray[np.int64]) -> torch.Tensor:
        if self.reference is not None:
            return self._logprobs(rows, self.reference)
        if self.policy.has_adapter and is_fresh(self.policy.model):
            with self.policy.without_adapter():
                return self._logprobs(rows, self.policy)
        return self._logprobs(rows, self.policy)

    def _logprobs(self, rows: NDArray[np.int64], policy: CausalLMPolicy) -> torch.Tensor:
        """Log-probs of whole answers, preferred ones in column 0, nats, shape ``(len(rows), 2)``."""
        pairs = [self.pairs[row] for row in rows]
        answers = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
        batch = SequenceBatch.from_ids([pair.prompt_ids for pair in pairs] * 2, answers, device=policy.device)
        return policy.evaluate(batch, values=False).logprobs.sum(1).reshape(2, -1).T

    def _cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows in micro-batches of similar length."""
        ordered = rows[np.argsort([len(self.pairs[row]) for row in rows], kind="stable")]
        return np.array_split(ordered, math.ceil(len(rows) / self.config.micro_batch_size)) if len(rows) else []

    def _loss(self, rows: NDArray[np.int64], ref_logprobs: torch.Tensor) -> tuple[DPOLoss, torch.Tensor]:
        """The loss of some pairs, and their log-probs."""
        logprobs = self._logprobs(rows, self.policy)
        margin, weights = (
            torch.tensor([getattr(self.pairs[row], name) for row in rows], dtype=logprobs.dtype, device=logprobs.device)
            for name in ("margin", "weight")
        )
        smoothing = self.config.label_smoothing
        reference = ref_logprobs[torch.as_tensor(rows, device=ref_logprobs.device)]
        loss = dpo_loss(
            logprobs, reference, beta=self.config.beta, label_smoothing=smoothing, margin=margin, weights=weights
        )
        return loss, logprobs.detach()

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One optimiser step on a batch. Returns its metrics."""
        began, ref_logprobs = time.monotonic(), self.prepare()
        rows = self.batches.batch(self.iteration)
        whole = sum(self.pairs[row].weight for row in rows)
        totals: dict[str, torch.Tensor] = {}
        for part in self._cut(rows[self.world.rank :: self.world.size]):
            loss, logprobs = self._loss(part, ref_logprobs)
            share = sum(self.pairs[row].weight for row in part) / whole if whole > 0 else 0.0
            (share * loss.loss).backward()
            self.policy.pull_gradients()
            _add(totals, self._figures(loss, logprobs, share, len(part) / len(rows)))
            self._check_start(logprobs, ref_logprobs[torch.as_tensor(part, device=ref_logprobs.device)])
        summed = self.world.sum(torch.stack(list(totals.values())))
        measured = dict(zip(totals, summed.tolist(), strict=True))
        norm = self.trainer.optimize(learning_rate, measured, blame=lambda: f", in comparisons {_shown(rows)}")
        measured |= {"policy/grad_norm": norm, "policy/learning_rate": learning_rate}
        self.trainer.step += 1
        measured["rollout/episodes"] = float(self.episodes)
        return measured | {"time/iteration_seconds": time.monotonic() - began}

    def _figures(
        self, loss: DPOLoss, logprobs: torch.Tensor, loss_share: float, share: float
    ) -> dict[str, torch.Tensor]:
        """What a micro-batch adds to the batch's means."""
        margin = loss.chosen - loss.rejected
        means = {
            "dpo/accuracy": (margin > 0).to(margin.dtype) + 0.5 * (margin == 0),
            "dpo/margin": margin,
            "dpo/reward_chosen": loss.chosen,
            "dpo/reward_rejected": loss.rejected,
            "dpo/logprobs_chosen": logprobs[:, 0],
            "dpo/logprobs_rejected": logprobs[:, 1],
        }
        figures = {name: share * value.double().mean() for name, value in means.items()}
        return {"loss/policy": loss_share * loss.loss.detach().double(), **figures}

    @torch.no_grad()
    def evaluate(self, *, last: bool = False) -> dict[str, float]:
        """Loss and share of rightly ordered answers on the held-out comparisons; empty where there are none."""
        rows = np.arange(self.batches.count, len(self.pairs))
        if not len(rows):
            return {}
        totals, whole = {}, sum(self.pairs[row].weight for row in rows)
        for part in self._cut(rows):
            loss, logprobs = self._loss(part, self.prepare())
            share = sum(self.pairs[row].weight for row in part) / whole if whole > 0 else 0.0
            _add(totals, self._figures(loss, logprobs, share, len(part) / len(rows)))
        names = {"loss/policy": "eval/loss", "dpo/accuracy": "eval/accuracy", "dpo/margin": "eval/margin"}
        return {shown: float(totals[name]) for name, shown in names.items()}

    def shown(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Loss and accuracy, for the line of progress."""
        return {"loss": figures["loss/policy"], "accuracy": figures["dpo/accuracy"]}

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check_start(self, logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> None:
        """Before the first step, a policy that is its own reference has the reference's log-probs."""
        if self.iteration or self.reference is not None:
            return
        tolerance = 1e-3 if self.policy.computes_in in (torch.float32, torch.float64) else 0.1
        apart = float(((logprobs - ref_logprobs).abs() / (1 + ref_logprobs.abs())).max())
        if not apart <= tolerance:
            raise RunCheckError(
                f"before the first step policy and reference must agree, but their log-probs differ by {apart:.3g} of "
                "an answer's: the two are not computed in the same way"
            )
        self.checks["KL(reference‖reference) is 0"] = True

    # --- state on disk ------------------------------------------------------------------------------------------------

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What is trained."""
        return ((f"policy/{name}", p) for name, p in self.policy.model.named_parameters() if p.requires_grad)

    def get_state(self) -> State:
        """The reference's log-probs, and what they belong to."""
        meta = {
            "checks": self.checks,
            "comparisons": fingerprint(self.pairs),
            "batch_size": self.config.batch_size,
        }
        return State({"ref_logprobs": self.prepare()}, meta)

    def set_state(self, state: State, folder: Path) -> None:
        """Put back what :meth:`get_state` gave.

        Raises:
            CheckpointError: If it belongs to other comparisons or batches.
        """
        if state.meta["comparisons"] != fingerprint(self.pairs):
            raise CheckpointError(f"`{folder}` was trained on other comparisons; resume it with the same ones")
        batch_size = state.meta.get("batch_size", self.config.batch_size)
        if batch_size != self.config.batch_size:  # what has been read is counted in batches
            raise CheckpointError(f"`{folder}` was trained with `batch_size` {batch_size}; resume it with the same one")
        self.ref_logprobs = state.tensors["ref_logprobs"].to(self.policy.device)
        self.checks = state.meta["checks"]

    def save(self, folder: str | Path) -> None:
        """Write policy, optimiser and the reference's log-probs; :meth:`load` goes on from there."""
        state, folder = self.trainer.state(), Path(folder)
        if self.world.is_main:
            meta = {"config": asdict(self.config), "stage": self.stage}
            meta |= self.policy.save_for_learner(folder)
            save_state(folder / "learner", *state)
            save_state(folder, {}, meta)
        self.world.barrier()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        comparisons: Sequence[Comparison | TokenPair],
        *,
        validation: Sequence[Comparison | TokenPair] = (),
        device: str | torch.device = "cpu",
    ) -> Self:
        """Go on from what :meth:`save` wrote, on the same comparisons; on the same machine with the same numbers.

        Raises:
            CheckpointError: If the folder is not complete, or the comparisons are others.
        """
        _, meta = load_state(Path(folder))
        policy = CausalLMPolicy.load_for_learner(Path(folder), meta, device)
        config = DPOConfig(**meta["config"])
        agent = cls(policy, comparisons, validation=validation, config=config, stage=meta["stage"])
        agent.trainer.read(Path(folder) / "learner")
        return agent


def _shown(rows: NDArray[np.int64]) -> str:
    return ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")


def _add(totals: dict[str, torch.Tensor], figures: Mapping[str, torch.Tensor]) -> None:
    for name, figure in figures.items():
        totals[name] = totals[name] + figure if name in totals else figure
