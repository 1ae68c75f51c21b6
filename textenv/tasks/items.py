"""The records of a task: an item, the form in which it is asked and answered, what a verifier found, a demonstration.

Nothing here reads files or knows a tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from textenv.answers import Message, as_text
from textenv.datasets.rated_texts import Split, check_split, split_of
from textenv.errors import ConfigError, DataError
from textenv.settings import NonNegativeInt, PositiveInt, Settings

_ROLES = ("system", "developer", "user", "assistant", "tool")

LABELERS = "labelers"
"""Source of demonstrations that labelers wrote, question and answer."""

USERS = "users"
"""Source of answers to prompts that users submitted."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its answers, or a text alone.

    Attributes:
        question: What is asked; the text itself where there are no answers.
        answers: Accepted answers, the reference first; empty for text that is only read.
        split: ``train``, ``validation`` or ``test``; None lets the question decide, by
            :func:`textenv.datasets.rated_texts.split_of`.
        source: Who wrote it, e.g. :data:`LABELERS` or :data:`USERS`.
        statement: The same in running text, for pre-training; None builds it from question and answer.
        data: Whatever a verifier needs besides the answers.

    Raises:
        DataError: If the question is empty or an answer is.
        ConfigError: If the split is unknown.
    """

    question: str
    answers: tuple[str, ...] = ()
    split: Split | None = None
    source: str = LABELERS
    statement: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError("an item needs a question, got an empty text")
        if isinstance(self.answers, str) or not all(isinstance(a, str) and a.strip() for a in self.answers):
            raise DataError(f"the answers to {self.question[:60]!r} must be texts that are not empty: {self.answers!r}")
        chosen = check_split(self.split) or split_of(self.question)
        object.__setattr__(self, "split", chosen)


@dataclass(frozen=True)
class Format(Settings):
    r"""How items become text, and how an answer is found in a response.

    Attributes:
        prompt: What the policy sees; holds ``{question}``.
        response: The asked form of an answer; holds ``{answer}``.
        statement: An item in running text, for pre-training; may hold ``{question}`` and ``{answer}``.
        pattern: Regular expression with a group ``answer`` that the whole response, without white space at its ends,
            must match; empty builds it from ``response``, the answer being on one line.
        continuation: Regular expression of what shows that a response merely goes on with the prompt: by default
            another question.
        items_per_document: Items that stand together in a document for pre-training.
        sheet_every: Pre-training also shows the questions of every so many documents alone, without answers, as exam
            papers do; 0 shows none.

    Raises:
        ConfigError: If a placeholder is missing or an expression is not valid.
    """

    prompt: str = "{question}\n"
    response: str = "Answer: {answer}"
    statement: str = "{question} {answer}"
    pattern: str = ""
    continuation: str = r"\?"
    items_per_document: PositiveInt = 6
    sheet_every: NonNegativeInt = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, needed in (("prompt", "{question}"), ("response", "{answer}")):
            if needed not in getattr(self, name):
                raise ConfigError(f"a format's `{name}` must hold {needed}, got {getattr(self, name)!r}")
        for name in ("pattern", "continuation"):
            try:
                compiled = re.compile(getattr(self, name))
            except re.error as error:
                raise ConfigError(f"a format's `{name}` is no regular expression: {error}") from error
            if name == "pattern" and self.pattern and "answer" not in compiled.groupindex:
                raise ConfigError(f"a format's `pattern` needs a group named answer, got {self.pattern!r}")

    @cached_property
    def _asked_form(self) -> re.Pattern[str]:
        if self.pattern:
            return re.compile(self.pattern)
        answer = r"(?P<answer>\S[^\n]*?)"
        return re.compile(re.escape(self.response.strip()).replace(re.escape("{answer}"), answer, 1))

    @cached_property
    def _continuation(self) -> re.Pattern[str]:
        return re.compile(self.continuation)

    def ask(self, question: str) -> str:
        """The prompt for a question."""
        return self.prompt.replace("{question}", question)

    def answer(self, answer: str) -> str:
        """The response that gives an answer in the asked form."""
        return self.response.replace("{answer}", answer)

    def state(self, item: Item) -> str:
        """An item in running text; without an answer, the question alone."""
        if item.statement is not None:
            return item.statement
        if not item.answers:
            return item.question
        return self.statement.replace("{question}", item.question).replace("{answer}", item.answers[0])

    def find(self, response: str) -> str | None:
        """The answer in a response, or None where the response is not in the asked form."""
        found = self._asked_form.fullmatch(response.strip())
        return found["answer"].strip() or None if found and found["answer"] is not None else None

    def goes_on(self, response: str) -> bool:
        """Whether a response without an answer carries on with the prompt instead."""
        return self.find(response) is None and self._continuation.search(response) is not None


class Verdict(NamedTuple):
    """What a task says about a response.

    Attributes:
        answer: The answer that was found in the asked form, or None.
        score: From 0 (wrong, or no answer) to 1 (right).
        goes_on: Whether the response merely goes on with the prompt.
    """

    answer: str | None
    score: float
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """A prompt with the response to imitate.

    Attributes:
        prompt: As the policy sees it.
        response: In the asked form.
        source: Who wrote it.
        task: Name of its task.
    """

    prompt: str
    response: str
    source: str = LABELERS
    task: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation to imitate: every turn of the assistant is a demonstration.

    Attributes:
        messages: ``{"role", "content"}``, roles ``system``, ``developer``, ``user``, ``assistant`` (whose content may
            be None beside ``tool_calls``) and ``tool``; at least one assistant turn.
        source: Who wrote it.
        task: Name of its task.

    Raises:
        DataError: If a role is unknown or nobody answers.
    """

    messages: tuple[Message, ...]
    source: str = LABELERS
    task: str = ""

    def __post_init__(self) -> None:
        for number, message in enumerate(self.messages):
            if message.get("role") not in _ROLES:
                raise DataError(f"message {number} needs 'role' ({', '.join(_ROLES)}), got {message!r}")
            as_text([message], f"message {number}")
        if not any(message["role"] == "assistant" for message in self.messages):
            raise DataError("a conversation to learn from needs at least one turn of the assistant")
