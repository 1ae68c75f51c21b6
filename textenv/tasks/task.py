"""`Task`: items, their form and a verifier, and what each stage of training gets from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from textenv.answers import Chat
from textenv.datasets.records import Split, check_split
from textenv.errors import DataError
from textenv.prompts import Prompt
from textenv.tasks.items import Conversation, Demonstrated, Format, Item, Verdict
from textenv.tasks.rewards import TaskReward
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
