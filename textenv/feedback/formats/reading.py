"""How a file of another tool is read: its fields, what choices mean, and what there is to say about it afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from textenv.answers import Chat, as_text
from textenv.errors import DataError
from textenv.feedback.store import Answer, Scale

_PROMPTS = ("prompt", "instruction", "question", "query", "input", "messages", "conversation", "dialogue")
_ANSWERS = ("response", "completion", "answer", "output", "generation", "candidate")
_ANSWER = re.compile(rf"({'|'.join(_ANSWERS)})[-_ ]?([a-z]|\d*)", re.IGNORECASE)
_SIDE = re.compile(rf"(?:the)?(?:{'|'.join((*_ANSWERS, 'model', 'option', 'text'))})?(\w+?)(?:isbetter|better|wins)?")
_FIRST, _SECOND = {"a", "1", "first", "left"}, {"b", "2", "second", "right"}
_TIES = {"tie", "equal", "equallygood", "same", "thesame", "aboutthesame", "draw", "bothgood"}
_BOTH_BAD = {"bothbad", "tiebothbad", "botharebad"}


@dataclass
class Reading:
    """What the reader of a file is told, and tells.

    Attributes:
        scale: Of ratings that name none; None: 1…5.
        question: The question or control that counts, where several fit; empty: the one that fits.
        remarks: What was left out, assumed or not read, and how often.
    """

    scale: Scale | None = None
    question: str = ""
    remarks: Counter[str] = field(default_factory=Counter)

    def assume_scale(self) -> Scale:
        """The scale of a rating that names none, with a note."""
        scale = self.scale or Scale()
        self.remarks[f"ratings that name no scale, taken as {scale.low}…{scale.high}"] += 1
        return scale

    def choose(self, names: Sequence[str], usual: str, what: str) -> str | None:
        """The one of several questions that counts.

        Args:
            names: Of those that fit.
            usual: What our own exports call it.
            what: They are called in messages.

        Raises:
            DataError: If several fit and nothing says which counts.
        """
        if self.question:
            return self.question if self.question in names else None
        if len(names) < 2 or usual in names:
            return usual if usual in names else next(iter(names), None)
        raise DataError(f"several {what} fit: {', '.join(names)}; say which counts (`--question {names[0]}`)")


class Texts(NamedTuple):
    """The texts of a record or task.

    Attributes:
        prompt: As people read it, or a :class:`textenv.answers.Chat`.
        names: Of the answers' fields.
        answers: The answers.
    """

    prompt: str
    names: tuple[str, ...]
    answers: tuple[str, ...]


def texts_of(fields: Mapping[str, Any], what: str) -> Texts:
    """Prompt and answers among the fields of a record.

    Args:
        fields: By name; the prompt's is ``prompt`` or a word for it, the answers' are ``response``, ``response-1``, …
            or words for it.
        what: The fields' own name in messages.

    Raises:
        DataError: If there is no prompt, or one of them is neither a text nor a chat.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    prompt = next((name for name in _PROMPTS if name in given), None)
    if prompt is None:
        raise DataError(
            f"field `{what}.prompt`: expected a prompt (or `{'`, `'.join(_PROMPTS[1:5])}`, `messages`), "
            f"got {sorted(given)}"
        )
    matches = {name: match for name in given if name != prompt and (match := _ANSWER.fullmatch(name))}
    names = sorted(matches, key=lambda name: (len(matches[name][2]), matches[name][2].lower()))
    return Texts(
        _text(given[prompt], f"field `{what}.{prompt}`"),
        tuple(names),
        tuple(_text(given[name], f"field `{what}.{name}`") for name in names),
    )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | list):
        raise DataError(f"{where}: expected a text, got {repr(value)[:80]}")
    return as_text(value, where)


def with_messages(text: str, messages: Any) -> str:
    """A text with the chat messages that it shows; without them where it shows something else."""
    chat = Chat(messages) if messages else text
    return chat if chat == text else text


def answer_of(text: str, provenance: Mapping[str, Any]) -> Answer:
    """An answer with what an export has noted of it."""
    known = {name: provenance[name] for name in ("policy", "version", "sampling", "seed") if name in provenance}
    return Answer(with_messages(text, provenance.get("messages")), **known)


def preference(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """What somebody chose between two answers, as a payload.

    Args:
        value: The field of an answer, ``A`` or ``B``, ``1`` or ``2``, ``left`` or ``right``, or a word for a tie.
        names: Of the two answers' fields.

    Raises:
        DataError: If it may mean something else.
    """
    word = re.sub(r"[\W_]", "", str(value)).lower()
    fields = [re.sub(r"[\W_]", "", name).lower() for name in names]
    match = _SIDE.fullmatch(word)
    side = match[1] if match else word
    if word in fields:
        preferred = fields.index(word)
    elif (
        side in (ends := [(_ANSWER.fullmatch(name) or [name] * 3)[2].lower() for name in names]) and len(set(ends)) == 2
    ):
        preferred = ends.index(side)
    elif word in _TIES | _BOTH_BAD:
        return {"preferred": None, "margin": 0, "both_bad": word in _BOTH_BAD}
    elif side in _FIRST | _SECOND:
        preferred = int(side in _SECOND)
    else:
        raise DataError(
            f"{value!r} names no side: expected {names[0]} or {names[1]}, A or B, left or right, tie, both bad"
        )
    return {"preferred": preferred, "margin": 0, "both_bad": False}
