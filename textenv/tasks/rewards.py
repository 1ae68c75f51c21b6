"""Verifiable rewards: the verifiers of some tasks as one reward function for the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, RewardError
from textenv.tasks.items import Item, Verdict

if TYPE_CHECKING:
    from textenv.tasks.task import Task


class TaskReward:
    """The verifiers of tasks as a reward; items are found by the text of their prompt.

    An answer that did not end (the length limit cut it off) counts as no answer. Where a question has been asked twice
    with different answers, either is right. ``textenv.rewards.SumReward([tasks_reward, reward_model], weights)`` mixes
    it with a learned reward.

    Args:
        tasks: Tasks with verifiers; their names differ.
        wrong: Reward of an answer in the asked form that is wrong; a right one gets 1, shares in between.
        no_answer: Reward of a response without an answer in the asked form.

    Raises:
        ConfigError: If there is no task, one has no verifier, or two have the same name.
    """

    def __init__(self, tasks: Sequence[Task], *, wrong: float = 0.0, no_answer: float = 0.0) -> None:
        if not tasks:
            raise ConfigError("a reward of tasks needs at least one task")
        without = [task.name for task in tasks if task.verifier is None]
        if without:
            raise ConfigError(f"no verifiable reward without a verifier: {', '.join(without)}; leave them out")
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ConfigError(f"tasks need different names, got {names}")
        self.tasks = list(tasks)
        self.wrong = wrong
        self.no_answer = no_answer
        self._items: dict[str, list[tuple[Task, Item]]] = {}
        for task in tasks:
            for item in task.items:
                if item.answers:
                    for text in {task.format.ask(item.question), item.question}:  # as plain text and as chat message
                        self._items.setdefault(text, []).append((task, item))

    def verdict(self, prompt: str, response: str, task: str | None = None) -> Verdict:
        """The best verdict of all items with this prompt.

        Args:
            prompt: Text of the prompt, as the environment gives it.
            response: The answer.
            task: Only items of this task, where it is known.

        Raises:
            RewardError: If no item of these tasks has this prompt.
        """
        found = [(t, item) for t, item in self._items.get(prompt, ()) if task in (None, t.name)]
        if not found:
            raise RewardError(
                f"no item of the tasks {', '.join(t.name for t in self.tasks)} asks {prompt!r}; verifiable rewards "
                "only know the prompts of their own tasks"
            )
        return max((t.verify(item, response) for t, item in found), key=lambda verdict: verdict.score)

    def score_episodes(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Scores of finished episodes, shape ``(n,)``."""
        return np.array(
            [
                self.no_answer
                if episode.finish_reason == FinishReason.LENGTH
                else self._value(self.verdict(episode.prompt, episode.response, self._own(episode.task)))
                for episode in episodes
            ]
        )

    def score(self, prompts: list[str], responses: list[str]) -> NDArray[np.float64]:
        """Scores of texts, shape ``(n,)``; every answer counts as ended."""
        return np.array([self._value(self.verdict(p, r)) for p, r in zip(prompts, responses, strict=True)])

    def __call__(self, prompts: list[str], responses: list[str]) -> NDArray[np.float64]:
        """The same as :meth:`score`."""
        return self.score(prompts, responses)

    def _own(self, task: str | None) -> str | None:
        return task if task in {t.name for t in self.tasks} else None

    def _value(self, verdict: Verdict) -> float:
        if verdict.answer is None:
            return self.no_answer
        return self.wrong + (1.0 - self.wrong) * verdict.score
