"""Conversations as people's files hold them, read as texts and chats and cut into a prompt and its answers.

A cell may hold a text, a list of messages, such a list as JSON or as Python writes it (CSV files), or a transcript as
HH-RLHF has it (``Human: …``, ``Assistant: …``). Whole conversations are cut where the assistant's turns begin that
differ; a string beside them says nothing that they do not say.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from textenv.answers.chat import Chat, Message, message_text, read_messages
from textenv.errors import DataError, UnusableRow

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
_SAYS = {"Human": "user", "Assistant": "assistant"}
_OPENING = ("system", "developer", "user")


def read_cell(value: Any, where: str) -> str:
    """What a cell says: a text as it is, messages in whatever form as a :class:`Chat`.

    Args:
        value: The cell.
        where: Names it in errors.

    Raises:
        DataError: If it is neither a text nor a list of usable messages.
    """
    read = _read(value, where)
    return value if isinstance(value, Chat) else read if isinstance(read, str) else Chat(read)


def _read(value: Any, where: str) -> str | list[Any]:
    """A text, or messages; that the latter are no Chat yet saves most of the time that reading takes."""
    if isinstance(value, Chat):
        return list(value.messages)
    if not isinstance(value, str):
        return read_messages(value, where)
    if _MESSAGES.match(value):
        return read_messages(decoded(value, where), where)
    return transcript_messages(value) or value


def decoded(text: str, where: str) -> Any:
    """The value that a cell of text holds as JSON, or as Python writes it.

    Raises:
        DataError: If it holds neither.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        shown = text if len(text) <= 80 else text[:79] + "…"
        raise DataError(f"{where}: expected JSON in the text, got {shown!r}") from error


def transcript_messages(text: str) -> list[Message]:
    """The messages of a transcript as HH-RLHF has it; none where the text is no such transcript.

    An ``Assistant:`` at the end with nothing after it only says who goes on.
    """
    pieces = _TURN.split(text.strip())
    if len(pieces) < 5 or pieces[0] or pieces[1] != "Human":
        return []
    roles, contents = pieces[1::2], [piece.strip() for piece in pieces[2::2]]
    return [{"role": _SAYS[role], "content": said} for role, said in zip(roles, contents, strict=True)]


def prompt_and_answers(prompt: Any, answers: Mapping[str, Any], where: str) -> tuple[str, list[str]]:
    """A prompt and the answers to it, of cells in any form.

    An answer that is one plain message of the assistant becomes its text, a prompt that is one of the user likewise.
    Where the answers are whole conversations, what they have in common is the prompt: their system message and
    earlier turns stay, and a string beside them is passed over. Of messages beside them a system message
    comes first that they do not have, and all where they end in one or in an earlier answer.

    Args:
        prompt: Text or messages; None where the answers hold it.
        answers: By the names of their fields, at least one, each a text or messages.
        where: Names the row in errors.

    Raises:
        DataError: If a cell is unusable, or there is no prompt.
        UnusableRow: If conversations begin differently, or do not end with an answer.
    """
    asked = None if prompt is None else _read(prompt, f"{where}: field `prompt`")
    sides = [_read(answer, f"{where}: field `{field}`") for field, answer in answers.items()]
    chats = [side for side in sides if isinstance(side, list)]
    if any(chat[0]["role"] in _OPENING for chat in chats):
        if len(chats) < len(sides) or not all(chat[0]["role"] in _OPENING for chat in chats):
            raise DataError(
                f"{where}: field `{next(iter(answers))}`: expected whole conversations as all answers, or as none; got "
                "some of either"
            )
        begun = _beginning(chats, where)
        before = asked if isinstance(asked, list) else []
        sides = [chat[len(begun) :] for chat in chats]
        if before and before[-1]["role"] in ("user", "tool"):  # the same question, said again
            before = [message for message in before[:1] if message["role"] == "system" != begun[0]["role"]]
        asked = begun if begun[: len(before)] == before else before + begun
    if asked is None:
        raise DataError(f"{where}: field `prompt`: expected a text or a list of chat messages, got nothing")
    if isinstance(asked, list) and isinstance(prompt, str) and not isinstance(prompt, Chat):
        asked, sides = _opened(asked, sides)
    return _plain(asked, "user"), [_plain(side, "assistant") for side in sides]


def _beginning(chats: Sequence[list[Message]], where: str) -> list[Message]:
    """What whole conversations have in common before the assistant's answers."""
    if any(chat[-1]["role"] != "assistant" for chat in chats):
        raise UnusableRow(where, "a conversation does not end with an answer")
    shortest = min(map(len, chats))
    common = 0
    if len(chats) == 1:  # the answer is all that follows the last question, calls of tools included
        common = max(place for place, message in enumerate(chats[0]) if message["role"] in _OPENING) + 1
    while len(chats) > 1 and common < shortest - 1 and all(chat[common] == chats[0][common] for chat in chats):
        common += 1
    while common and any(chat[common]["role"] != "assistant" for chat in chats):
        common -= 1
    if not common:
        raise UnusableRow(where, "the conversations begin differently")
    return chats[0][:common]


def _opened(asked: list[Any], sides: list[Any]) -> tuple[list[Any], list[Any]]:
    """A transcript that leaves the answer open, without the opening; the blanks that follow it belong to no answer."""
    if asked[-1]["role"] != "assistant" or asked[-1].get("content") or len(asked) < 2:
        return asked, sides
    return asked[:-1], [side.strip() if isinstance(side, str) else side for side in sides]


def _plain(read: str | list[Any], role: str) -> str:
    """The words of one plain message of this role, a chat of anything else; a text as it is."""
    if isinstance(read, str):
        return read
    content, others = read[0].get("content"), read[0].keys() - {"role", "content"}
    if len(read) > 1 or read[0]["role"] != role or others:
        return Chat(read)
    return message_text(content) if isinstance(content, str) or all(map(_is_words, content or [0])) else Chat(read)


def _is_words(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text"
