"""Question sets that stand in the wheel ``evals==3.0.1.post1``: fetched, checked and unzipped, never installed.

The wheel (OpenAI evals, MIT) carries each set under its own licence, which its ``LICENSE.md`` states: SocialIQA is
CC BY 4.0, the MMLU sample MIT. 46 MB are fetched once; only the files of the sets that are asked for are unzipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from textenv.datasets.fetch import cache_dir, extract_members, fetch_package
from textenv.errors import ConfigError, DataError

_SHA256 = "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"
_ROOT = "evals/registry/data/"


class QuestionSet(NamedTuple):
    """Where a set stands in the wheel.

    Attributes:
        member: Path below the wheel's data folder.
        size: Questions that it has.
        choices: Whether the answer is the letter of an option.
        what: One line about it.
    """

    member: str
    size: int
    choices: bool
    what: str


QUESTION_SETS: dict[str, QuestionSet] = {
    "socialiqa": QuestionSet("theory_of_mind/socialiqa/test.jsonl", 2224, True, "what people feel and do, 3 options"),
    "mmlu": QuestionSet("sandbagging/samples-all-large.jsonl", 1000, True, "a sample of MMLU, 4 options"),
    "quartz": QuestionSet("quartz/samples.jsonl", 3860, True, "qualitative science, 2 options"),
    "logiqa": QuestionSet("logiqa/logiqa.jsonl", 1354, True, "reading and logic, 4 options"),
    "crepe": QuestionSet("crepe/samples.jsonl", 1520, False, "does a step make an event more or less likely"),
}
"""The sets that can be read, by name."""


class Question(NamedTuple):
    """A question with its gold answer.

    Attributes:
        question: With its options, where it has any.
        answer: A letter, or a text.
        choices: Whether the answer is a letter.
    """

    question: str
    answer: str
    choices: bool


def question_set(name: str) -> list[Question]:
    """A question set, fetched on first use.

    Args:
        name: One of :data:`QUESTION_SETS`.

    Raises:
        ConfigError: If the set is unknown.
        DataError: If it cannot be fetched, or a line is malformed (names file and line).
        MissingDependencyError: If neither pip nor uv is there to fetch it with.
    """
    if name not in QUESTION_SETS:
        raise ConfigError(f"there is no question set {name!r}; there are: {', '.join(QUESTION_SETS)}")
    archive = fetch_package("evals", "3.0.1.post1", "evals-3.0.1.post1-py3-none-any.whl", _SHA256, kind="wheel")
    return list(_read(archive, name))


@lru_cache(maxsize=8)
def _read(archive: Path, name: str) -> tuple[Question, ...]:
    chosen = QUESTION_SETS[name]
    folder = cache_dir() / "questions" / f"{name}-{_SHA256[:12]}"
    extract_members(archive, {_ROOT + chosen.member: "questions.jsonl"}, folder)
    found = parse_questions((folder / "questions.jsonl").read_text("utf-8"), name, choices=chosen.choices)
    if len(found) != chosen.size:
        raise DataError(f"{archive}: {chosen.member} has {len(found)} questions, expected {chosen.size}")
    return tuple(found)


def parse_questions(content: str, where: str, *, choices: bool) -> list[Question]:
    """Parse a set: lines with ``input`` (chat messages) and ``ideal``, or ``question`` and ``answer``.

    Args:
        content: The file.
        where: Its name in messages.
        choices: Whether answers are letters.

    Raises:
        DataError: If a line is malformed; names line, field and what was expected.
    """
    found = []
    for number, line in enumerate(content.splitlines(), start=1):
        place = f"{where}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: expected one JSON object: {error.msg} at column {error.colno}") from error
        if not isinstance(record, Mapping):
            raise DataError(f"{place}: expected an object, got {type(record).__name__}")
        question, answer = _asked(record, place), record.get("ideal", record.get("answer"))
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{place}: field 'ideal' or 'answer': expected a text, got {answer!r}")
        if choices and not re.fullmatch("[A-Z]", answer.strip()):
            raise DataError(f"{place}: field 'ideal' or 'answer': expected the letter of an option, got {answer!r}")
        found.append(Question(question, answer.strip(), choices))
    return found


def _asked(record: Mapping[str, Any], place: str) -> str:
    """The question: the last message of the user, without the word ``Answer:`` at its end."""
    asked = record.get("question")
    if asked is None:
        messages = record.get("input")
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
            raise DataError(f"{place}: field 'input': expected a list of chat messages, got {messages!r}")
        asked = messages[-1].get("content")
    if not isinstance(asked, str) or not asked.strip():
        raise DataError(f"{place}: field 'question' or 'input': expected a text, got {asked!r}")
    return asked.strip().removesuffix("Answer:").strip()
