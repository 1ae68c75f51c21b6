"""DPO: a policy from comparisons alone, without a reward model and without sampling. The offline baseline.

The log-probs of the reference are computed once, before the first step, so one copy of the weights is enough. Left out:
the other losses on the same figures (IPO, KTO, …), and generation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from agents import dpo_files
from agents.dpo_objective import DPOConfig, DPOLoss, dpo_loss
from agents.forward import SequenceBatch
from agents.learning.protocols import Callback
from agents.learning.world import World
from agents.lora import is_fresh
from agents.policy import CausalLMPolicy
from agents.preference_pairs import PairBatches, TokenPair, tokenize_comparisons
from reward_models.labels import Comparison
from textenv.checkpoints import Checkpoints
from textenv.errors import ConfigError, RunCheckError
from textenv.progress import StageProgress
from textenv.runs import Run


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
        self.optimizer = torch.optim.Adam(
            weights,
            lr=self.config.learning_rate,
            eps=self.config.adam_eps,
            fused=policy.device.type == "cpu" or None,
        )
        self.ref_logprobs: torch.Tensor | None = None
        self.iteration = 0
        self.checks: dict[str, bool] = {}

    @property
    def episodes(self) -> int:
        """Answers read so far, two to a comparison, repeated ones included."""
        return 2 * self.config.batch_size * self.iteration

    # --- training -----------------------------------------------------------------------------------------------------

    def learn(self, total_episodes: int, callback: Callback | None = None) -> Self:
        """Train until this many answers have been read in all, two to a comparison, those before a resume included.

        The last iteration is checkpointed too, so that a later call or run can go on to more.

        Args:
            total_episodes: Also the horizon of the learning-rate schedule.
            callback: Called with the agent and the metrics after every iteration, after the constructor's callbacks.

        Returns:
            The agent itself.

        Raises:
            RunCheckError: If a check of the run fails or a figure stops being finite.
        """
        if self.run is not None:
            self._resume(self.run)
        self.prepare()
        total = math.ceil(total_episodes / (2 * self.config.batch_size))
        console = self.run.console if self.run is not None and self.world.is_main else None
        with StageProgress(self.stage, total, console, start=self.iteration) as progress:
            while self.iteration < total:
                measured = self.iterate(self.config.learning_rate_at(self.iteration, total))
                if self.iteration % self.config.eval_every == 0 or self.iteration == total:
                    measured |= self.evaluate()
                for called in (*self.callbacks, *([callback] if callback else [])):
                    called(self, measured)
                progress.update(self.iteration, {"loss": measured["loss/policy"], "accuracy": measured["dpo/accuracy"]})
                if self.run is not None:
                    if self.world.is_main:
                        self.run.log(self.stage, self.iteration, measured)
                    if self.iteration % self.config.checkpoint_every == 0 or self.iteration == total:
                        self._save_checkpoint(self.run)
        return self

    @torch.no_grad()
    def prepare(self) -> torch.Tensor:
        """The reference's log-probs of all answers, nats, shape ``(P, 2)``; computed when first asked for."""
        if self.ref_logprobs is None:
            found = torch.zeros(len(self.pairs), 2, dtype=self.policy.scores_in, device=self.policy.device)
            mine = np.arange(self.world.rank, len(self.pairs), self.world.size)
            for rows in self._cut(mine):
                found[rows] = self._reference_logprobs(rows)
            self.ref_logprobs = self.world.sum(found)
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
        found = dpo_loss(
            logprobs, reference, beta=self.config.beta, label_smoothing=smoothing, margin=margin, weights=weights
        )
        return found, logprobs.detach()

    def iterate(self, learning_rate: float) -> dict[str, float]:
        """One optimiser step on a batch. Returns its metrics."""
        began, ref_logprobs = time.monotonic(), self.prepare()
        rows = self.batches.batch(self.iteration)
        whole = sum(self.pairs[row].weight for row in rows)
        totals: dict[str, torch.Tensor] = {}
        for part in self._cut(rows[self.world.rank :: self.world.size]):
            found, logprobs = self._loss(part, ref_logprobs)
            share = sum(self.pairs[row].weight for row in part) / whole if whole > 0 else 0.0
            (share * found.loss).backward()
            self.policy.pull_gradients()
            _add(totals, self._figures(found, logprobs, share, len(part) / len(rows)))
            self._check_start(logprobs, ref_logprobs[torch.as_tensor(part, device=ref_logprobs.device)])
        summed = self.world.sum(torch.stack(list(totals.values())))
        measured = dict(zip(totals, summed.tolist(), strict=True))
        self.world.reduce_gradients(self.policy.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.config.max_grad_norm)
        measured |= {"policy/grad_norm": float(norm), "policy/learning_rate": learning_rate}
        self._check_finite(measured, rows)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.push_weights()
        self.iteration += 1
        measured["rollout/episodes"] = float(self.episodes)
        return measured | {"time/iteration_seconds": time.monotonic() - began}

    def _figures(
        self, found: DPOLoss, logprobs: torch.Tensor, loss_share: float, share: float
    ) -> dict[str, torch.Tensor]:
        """What a micro-batch adds to the batch's means."""
        margin = found.chosen - found.rejected
        means = {
            "dpo/accuracy": (margin > 0).to(margin.dtype) + 0.5 * (margin == 0),
            "dpo/margin": margin,
            "dpo/reward_chosen": found.chosen,
            "dpo/reward_rejected": found.rejected,
            "dpo/logprobs_chosen": logprobs[:, 0],
            "dpo/logprobs_rejected": logprobs[:, 1],
        }
        figures = {name: share * value.double().mean() for name, value in means.items()}
        return {"loss/policy": loss_share * found.loss.detach().double(), **figures}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and share of rightly ordered answers on the held-out comparisons; empty where there are none."""
        rows = np.arange(self.batches.count, len(self.pairs))
        if not len(rows):
            return {}
        totals, whole = {}, sum(self.pairs[row].weight for row in rows)
        for part in self._cut(rows):
            found, logprobs = self._loss(part, self.prepare())
            share = sum(self.pairs[row].weight for row in part) / whole if whole > 0 else 0.0
            _add(totals, self._figures(found, logprobs, share, len(part) / len(rows)))
        names = {"loss/policy": "eval/loss", "dpo/accuracy": "eval/accuracy", "dpo/margin": "eval/margin"}
        return {shown: float(totals[name]) for name, shown in names.items()}

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

    def _check_finite(self, measured: Mapping[str, float], rows: NDArray[np.int64]) -> None:
        broken = [name for name, value in measured.items() if not math.isfinite(value)]
        if broken:
            last = None if self.run is None else self._checkpoints(self.run).latest()
            raise RunCheckError(
                f"update of iteration {self.iteration}: {', '.join(broken)} is not finite, in comparisons "
                f"{', '.join(map(str, rows[:8]))}{', …' if len(rows) > 8 else ''}; the weights were not changed by "
                f"this step; last good checkpoint: {last or 'none'}"
            )

    # --- state on disk ------------------------------------------------------------------------------------------------

    def _checkpoints(self, run: Run) -> Checkpoints:
        return run.checkpoints(self.stage, keep=self.config.keep_checkpoints)

    def _save_checkpoint(self, run: Run) -> None:
        if self.world.is_main:
            self._checkpoints(run).save(self.iteration, lambda folder: dpo_files.write(self, folder))
        self.world.barrier()

    def _resume(self, run: Run) -> None:
        """Go on from a run's newest checkpoint, where there is one and the agent is new."""
        if self.iteration:
            return
        self.world.barrier()
        latest = self._checkpoints(run).latest()
        if latest is not None:
            dpo_files.read(self, latest)
        if self.world.is_main:
            run.rewind(self.stage, self.iteration)
        self.world.barrier()

    def save(self, folder: str | Path) -> None:
        """Write policy, optimiser and the reference's log-probs; :meth:`load` goes on from there."""
        self.prepare()
        if self.world.is_main:
            dpo_files.save(self, Path(folder))
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
        policy, options = dpo_files.load(Path(folder), device)
        agent = cls(policy, comparisons, validation=validation, **options)
        dpo_files.read(agent, Path(folder) / "learner")
        return agent


def _add(totals: dict[str, torch.Tensor], figures: Mapping[str, torch.Tensor]) -> None:
    for name, figure in figures.items():
        totals[name] = totals[name] + figure if name in totals else figure
