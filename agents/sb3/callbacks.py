"""A callback for Stable-Baselines3 that shows what a language model says while it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from textenv.episode import Episode, FinishReason


class TextLogger(BaseCallback):
    """Logs scores, KL, reward parts and sample texts of every rollout's finished answers, to SB3's logger.

    ``objective/score`` (of the answers that were scored), ``objective/kl`` (nats per answer, where a ``KLPenalty``
    wrapper measures it), ``reward/<part>`` (where the reward function gives parts), ``rollout/response_tokens``,
    ``rollout/truncated_fraction`` (answers that the length limit or something outside the task cut off) and
    ``text/sample_<i>`` (TensorBoard and JSON only).

    Args:
        samples: Answers to log per rollout.
        verbose: As in SB3.
    """

    def __init__(self, samples: int = 3, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.samples = samples
        self._kl = np.zeros(0)
        self._found: dict[str, list[float]] = {}
        self._episodes: list[Episode] = []

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        if len(self._kl) != len(infos):
            self._kl = np.zeros(len(infos))
        self._kl += [info.get("kl", 0.0) for info in infos]
        ended = np.flatnonzero(self.locals["dones"]).tolist()
        if not ended:
            return True
        for slot, episode in zip(ended, self.training_env.get_attr("last_episode", indices=ended), strict=True):
            info = infos[slot]
            scored = not info.get("TimeLimit.truncated", False)
            if scored:
                self._note("objective/score", info["score"])
            self._note("rollout/response_tokens", info["response_tokens"])
            self._note("rollout/truncated_fraction", float(info["finish_reason"] == FinishReason.LENGTH or not scored))
            if "kl" in info:
                self._note("objective/kl", self._kl[slot])
            if episode is None:  # a TimeLimit wrapper ended it, and the environment has no record
                continue
            for part, value in (episode.reward_parts or {}).items():
                self._note(f"reward/{part}", value)
            self._episodes.append(episode)
        self._kl[ended] = 0.0
        return True

    def _note(self, name: str, value: float) -> None:
        self._found.setdefault(name, []).append(float(value))

    def _on_rollout_end(self) -> None:
        for name, values in self._found.items():
            self.logger.record(name, float(np.mean(values)))
        for number, episode in enumerate(self._episodes[-self.samples :] if self.samples else []):
            text = " ".join(f"{episode.prompt} → {episode.response} ({episode.score:.3f})".split())
            self.logger.record(f"text/sample_{number}", text, exclude=("stdout", "log", "csv"))
        self._found, self._episodes = {}, []
