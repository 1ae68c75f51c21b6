"""What an iteration looked like, under the project's names for it, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from agents.formulas.advantages import explained_variance, masked_mean
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, Experience
from textenv.kl import ESTIMATORS


class Clock:
    """Wall-clock seconds of an iteration's phases; the rest of the iteration counts as update."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside this context belongs to a phase."""
        began = time.monotonic()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def metrics(self, tokens: int) -> dict[str, float]:
        """Seconds and shares of each phase, and generated tokens per second of the whole iteration."""
        whole = max(time.monotonic() - self._began, 1e-9)
        figures = {f"time/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        figures |= {f"time/{name}_share": seconds / whole for name, seconds in self._seconds.items()}
        return figures | {"time/tokens_per_second": tokens / whole}


def summarize(
    experience: Experience,
    estimated: Advantages,
    steps: list[dict[str, float]],
    config: LearnerConfig,
    *,
    uses_critic: bool,
) -> dict[str, float]:
    """Figures of an iteration, over all processes.

    Scores and rewards are means over the answers that were scored, and missing where none was; the rest are counted by
    ``rollout/truncated_fraction``: the length limit, or something outside the task, cut them off.

    Args:
        experience: What it learned from.
        estimated: Its advantages and returns.
        steps: What each optimiser step measured; empty where no answer counted.
        config: The learner's.
        uses_critic: Whether the algorithm has a critic.
    """
    world, rollout, mask = experience.world, experience.rollout, experience.action_mask
    kl_per_sequence = world.gather(experience.kl_per_sequence)
    kl = float(kl_per_sequence.mean())
    rewards = world.gather(experience.sequence_rewards).double()
    if config.kl_placement == "loss":
        rewards = rewards - experience.kl_coef * kl_per_sequence
    scored = world.gather(torch.as_tensor(rollout.scored)).cpu()
    cut = world.gather(torch.as_tensor(rollout.cut | ~rollout.scored))
    lengths = world.gather(mask.sum(1)).double()
    tokens = float(lengths.sum())
    mismatch = np.abs(rollout.behaviour_logprobs - experience.logprobs.cpu().numpy())[rollout.action_mask].sum()
    figures: dict[str, float] = {}
    if scored.any():  # what nobody was asked about has no figure
        scores = world.gather(torch.as_tensor(rollout.scores)).cpu()[scored].numpy()
        figures["objective/score"], figures["objective/score_std"] = float(scores.mean()), float(scores.std())
        figures["objective/rlhf_reward"] = float(rewards.cpu()[scored].mean())
    figures |= {
        "objective/kl": kl,
        "objective/kl_coef": experience.kl_coef,
        "objective/entropy": float(world.sum(experience.entropy.double().sum())) / tokens,
        "rollout/response_tokens": float(lengths.mean()),
        "rollout/truncated_fraction": float(cut.double().mean()),
        "rollout/new_tokens": tokens,
        "policy/sampler_mismatch": float(world.sum(torch.tensor(float(mismatch)))) / tokens,
        "policy/steps": float(len(steps)),
        "time/environment_seconds": rollout.environment_seconds,
    }
    if config.kl_estimator != "k1":
        estimate = torch.where(mask, ESTIMATORS[config.kl_estimator](experience.log_ratio), 0.0).double().sum(1)
        figures[f"objective/kl_{config.kl_estimator}"] = float(world.gather(estimate).mean())
    if experience.importance is not None:
        figures["policy/importance"] = float(masked_mean(experience.importance, mask, total=world.sum))
    if uses_critic and estimated.returns is not None:
        figures["val/explained_variance"] = explained_variance(
            experience.values, estimated.returns, mask, total=world.sum
        )
        figures["val/mean"] = float(masked_mean(experience.values, mask, total=world.sum))
    if not steps:  # no answer counted
        return figures
    figures["policy/ratio_first"] = steps[0]["policy/ratio"]
    return figures | {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
