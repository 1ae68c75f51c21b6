"""Reward hooks that look at rewards and finished episodes only: scale, clip, whiten, penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.envs.slots import Slots
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError
from textenv.wrappers.base import Hook, Transition


class ScaleHook(Hook):
    """``scale · reward`` at every step."""

    def __init__(self, scale: float) -> None:
        self.scale = float(scale)

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Scaled rewards."""
        return self.scale * transition.rewards


class ClipHook(Hook):
    """Rewards clipped to ``[low, high]`` at every step."""

    def __init__(self, low: float, high: float) -> None:
        if low > high:
            raise ConfigError(f"low must not exceed high, got {low} and {high}")
        self.low, self.high = float(low), float(high)

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Clipped rewards."""
        return np.clip(transition.rewards, self.low, self.high)


class WhitenHook(Hook):
    """Shifts and scales what scored ends pay to mean 0 and standard deviation 1; see ``WhitenReward``."""

    def __init__(self, shift_mean: bool, epsilon: float) -> None:
        self.shift_mean = shift_mean
        self.epsilon = epsilon
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self.frozen = False

    @property
    def std(self) -> float:
        """Standard deviation so far, 1 before there are two different values."""
        deviation = float(np.sqrt(self._squares / self.count)) if self.count > 1 else 0.0
        return deviation if deviation > 0 else 1.0

    def _observe(self, values: NDArray[np.float64]) -> None:
        """Welford's update with several values at once; equal values have deviation exactly 0, whatever they are."""
        before = float(values[0]) if self.count == 0 else self.mean
        self.count += len(values)
        self.mean = before + float((values - before).sum()) / self.count
        self._squares += float(((values - before) * (values - self.mean)).sum())

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Whitened rewards; rewards inside episodes are only scaled, unscored ends stay as they are."""
        if self.evaluating:
            return transition.rewards
        scored = transition.terminated & np.array([episode is not None for episode in transition.episodes])
        if scored.any() and not self.frozen:
            self._observe(transition.rewards[scored])
        shift = np.where(scored & self.shift_mean, self.mean, 0.0)
        return (transition.rewards - shift) / (self.std + self.epsilon)

    def get_state(self) -> dict[str, float]:
        """Count, mean and sum of squares so far, JSON-able."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def set_state(self, state: dict[str, float]) -> None:
        """Restores what :meth:`get_state` gave."""
        self.count, self.mean, self._squares = int(state["count"]), float(state["mean"]), float(state["squares"])


class EpisodePenaltyHook(Hook):
    """Subtracts something of each finished episode from its last reward."""

    def __init__(self, penalty: Callable[[Episode], float]) -> None:
        self.penalty = penalty

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Penalised rewards; ends that were not scored are no answers and stay as they are."""
        rewards = transition.rewards.copy()
        for slot, episode in enumerate(transition.episodes):
            if episode is not None and transition.terminated[slot]:
                rewards[slot] -= self.penalty(episode)
        return rewards


class LengthPenaltyHook(EpisodePenaltyHook):
    """``per_token`` for every policy token beyond ``free_tokens``."""

    def __init__(self, per_token: float, free_tokens: int) -> None:
        super().__init__(self._of)
        self.per_token, self.free_tokens = float(per_token), free_tokens

    def _of(self, episode: Episode) -> float:
        return self.per_token * max(0, episode.action_tokens - self.free_tokens)


class MissingEosPenaltyHook(EpisodePenaltyHook):
    """``penalty`` for an answer that neither EOS nor a stop string ended."""

    def __init__(self, penalty: float) -> None:
        super().__init__(self._of)
        self.amount = float(penalty)

    def _of(self, episode: Episode) -> float:
        return 0.0 if episode.finish_reason in (FinishReason.EOS, FinishReason.STOP) else self.amount


class RecordHook(Hook):
    """Writes finished episodes; see ``RecordTrajectories``."""

    def __init__(self, path: Any, episode_trigger: Callable[[int], bool] | None) -> None:
        from textenv.wrappers.recording import make_recorder

        self.writer = make_recorder(path)
        self.episode_trigger = episode_trigger
        self._paid: NDArray[np.float64] | None = None
        self._rewards: list[list[float]] = []

    def attach(self, slots: Slots) -> None:
        """Makes room for the slots' rewards."""
        super().attach(slots)
        self._rewards = [[] for _ in range(slots.num_slots)]

    def begin(self, started: NDArray[np.bool_]) -> None:
        """Forgets the rewards of episodes that were cut off by a reset."""
        if self.evaluating:
            return
        for slot in np.flatnonzero(started).tolist():
            self._rewards[slot] = []

    def after(self, transition: Transition) -> NDArray[np.float64]:
        """Notes the rewards of the step and writes the episodes that ended."""
        if self.evaluating:
            return transition.rewards
        for slot in transition.rows.tolist():
            self._rewards[slot].append(float(transition.rewards[slot]))
        for slot, episode in enumerate(transition.episodes):
            if episode is None:
                continue
            if self.episode_trigger is None or self.episode_trigger(self.writer.seen):
                self.writer.write(episode, slot=slot, step_rewards=self._rewards[slot])
            self.writer.seen += 1
            self._rewards[slot] = []
        return transition.rewards

    def read_episode(self, slot: int) -> list[float]:
        """What was paid for each step of the episode so far."""
        return list(self._rewards[slot])

    def write_episode(self, slot: int, known: list[float] | None) -> None:
        """Goes on from such rewards."""
        self._rewards[slot] = list(known or [])

    def close(self) -> None:
        """Closes the file, commits what is pending."""
        self.writer.close()
