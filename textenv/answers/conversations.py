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

from textenv.answers.chat import Chat, Message, as_text, message_text
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
    if not isinstance(value, str):
        return as_text(value, where)
    if isinstance(value, Chat):
        return value
    if _MESSAGES.match(value):
        return as_text(decoded(value, where), where)
    transcript = transcript_messages(value)
    return Chat(transcript) if transcript else value


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
    asked = None if prompt is None else read_cell(prompt, f"{where}: field `prompt`")
    sides = [read_cell(answer, f"{where}: field `{field}`") for field, answer in answers.items()]
    chats = [list(side.messages) for side in sides if isinstance(side, Chat)]
    if any(chat[0]["role"] in _OPENING for chat in chats):
        if len(chats) < len(sides) or not all(chat[0]["role"] in _OPENING for chat in chats):
            raise DataError(
                f"{where}: field `{next(iter(answers))}`: expected whole conversations as all answers, or as none; got "
                "some of either"
            )
        begun = _beginning(chats, where)
        before = list(asked.messages) if isinstance(asked, Chat) else []
        sides = [Chat(chat[len(begun) :]) for chat in chats]
        if before and before[-1]["role"] in ("user", "tool"):  # the same question, said again
            before = [message for message in before[:1] if message["role"] == "system" != begun[0]["role"]]
        begun = begun if begun[: len(before)] == before else before + begun
        asked = Chat(begun)
    if asked is None:
        raise DataError(f"{where}: field `prompt`: expected a text or a list of chat messages, got nothing")
    if isinstance(asked, Chat) and not isinstance(prompt, Chat) and isinstance(prompt, str):
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


def _opened(asked: Chat, sides: list[str]) -> tuple[Chat, list[str]]:
    """A transcript that leaves the answer open, without the opening; the blanks that follow it belong to no answer."""
    if asked.messages[-1]["role"] != "assistant" or asked.messages[-1]["content"] or len(asked.messages) < 2:
        return asked, sides
    return Chat(asked.messages[:-1]), [side if isinstance(side, Chat) else side.strip() for side in sides]


def _plain(text: str, role: str) -> str:
    """The words of a chat of one plain message of this role; anything else as it is."""
    if not isinstance(text, Chat) or len(text.messages) > 1 or text.messages[0]["role"] != role:
        return text
    content, others = text.messages[0].get("content"), text.messages[0].keys() - {"role", "content"}
    if others or not (isinstance(content, str) or all(_is_words(part) for part in content or [None])):
        return text
    return message_text(content)


def _is_words(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text"
