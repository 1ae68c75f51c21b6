"""`Task`: items, their form and a verifier, and what each stage of training gets from them; `TaskReward`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from textenv.answers import Chat
from textenv.datasets.rated_texts import Split, check_split
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, DataError, RewardError
from textenv.prompts import Prompt
from textenv.tasks.items import Conversation, Demonstrated, Format, Item, Verdict
from textenv.tasks.verifiers import Verifier, same_text


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Short and unique among the tasks that are used together.
        items: Questions with answers, or texts; those of a file stay there (:class:`textenv.tasks.files.RecordItems`).
        format: How an item is asked, answered and written down.
        verifier: Scores an answer; None for tasks without a right answer, such as going on with a text.

    Raises:
        DataError: If there is no item, or the name is empty.
    """

    name: str
    items: Sequence[Item]
    format: Format = field(default_factory=Format)
    verifier: Verifier | None = same_text

    def __post_init__(self) -> None:
        if not self.name or not set(self.name).isdisjoint("/\\") or self.name.startswith("."):
            raise DataError(f"a task's name must be fit for a folder, got {self.name!r}")
        if not len(self.items):
            raise DataError(f"task {self.name!r} has no items")

    def split(self, split: Split) -> list[Item]:
        """The items of a split, in their order."""
        return list(self._each(split))

    def _each(self, split: Split) -> Iterator[Item]:
        check_split(split)
        return (item for item in self.items if item.split == split)

    def documents(self, split: Split) -> Iterator[str]:
        """Texts for pre-training: some statements together, and lists of questions alone where the format has them.

        One document after the other: the items of a split are never held together.
        """
        items = self._each(split)
        groups = iter(lambda: list(islice(items, self.format.items_per_document)), [])
        for number, group in enumerate(groups):
            yield "\n".join(self.format.state(item) for item in group)
            asked = [item.question for item in group if item.answers]
            if asked and self.format.sheet_every and number % self.format.sheet_every == 0:
                yield "\n".join(asked)

    def demonstrations(self, split: Split) -> list[Demonstrated]:
        """Prompts with responses in the asked form, for supervised fine-tuning; texts without answers give none."""
        return [
            Demonstrated(self.format.ask(i.question), self.format.answer(i.answers[0]), i.source, self.name)
            for i in self.split(split)
            if i.answers
        ]

    def conversations(self, split: Split) -> list[Conversation]:
        """The demonstrations as chat messages, for a tokenizer's template: the question alone, and the response."""
        return [
            Conversation(
                (
                    {"role": "user", "content": i.question},
                    {"role": "assistant", "content": self.format.answer(i.answers[0])},
                ),
                i.source,
                self.name,
            )
            for i in self.split(split)
            if i.answers
        ]

    def prompts(self, split: Split, *, chat: bool = False) -> list[Prompt]:
        """Prompts for the environment.

        Args:
            split: Which items.
            chat: Give the question as a chat message, for the tokenizer's template, instead of the format's prompt.
        """
        asked = [item.question for item in self.split(split) if item.answers]
        if chat:
            chats = [Chat([{"role": "user", "content": question}]) for question in asked]
            return [Prompt(question, messages=question.messages, task=self.name) for question in chats]
        return [Prompt(self.format.ask(question), task=self.name) for question in asked]

    def verify(self, item: Item, response: str) -> Verdict:
        """Find and judge the answer in a response.

        Raises:
            DataError: If the task has no verifier, or the verifier's score is not between 0 and 1.
        """
        if self.verifier is None:
            raise DataError(f"task {self.name!r} has no verifier: nothing says which response is right")
        answer = self.format.find(response)
        score = 0.0 if answer is None else float(self.verifier(item, answer))
        if not 0.0 <= score <= 1.0:
            raise DataError(
                f"the verifier of task {self.name!r} gave {score} to {answer!r}; scores lie between 0 and 1"
            )
        return Verdict(answer, score, self.format.goes_on(response))

    @property
    def reward(self) -> TaskReward:
        """The verifier as a reward function, for prompts of this task: ``reward=task.reward``."""
        return TaskReward([self])


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
