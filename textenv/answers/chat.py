"""Conversations: messages wherever a text may stand, as people read them and as a chat template writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from textenv.errors import ConfigError, DataError

Message = Mapping[str, Any]
"""One chat message: ``{"role": ..., "content": ...}``, and what else the chat template reads, such as ``tool_calls``.

The content is a text, a list of parts (``{"type": "text", "text": ...}``), or None beside ``tool_calls``."""


class Chat(str):
    """Chat messages wherever a text may stand: as a text they read as people read them, and they are still known.

    Whoever knows texts only (a reward function, a table, a key) sees a text; whoever has a chat template finds the
    messages, system message, earlier turns and tool calls included. As a response it may hold several turns.

    Args:
        messages: The messages.
        text: What it reads as; None: as :func:`chat_text` writes the messages.

    Attributes:
        messages: The messages.
    """

    messages: tuple[Message, ...]

    def __new__(cls, messages: Sequence[Message], text: str | None = None) -> Self:
        """A text that is these messages."""
        self = super().__new__(cls, chat_text(messages) if text is None else text)
        self.messages = tuple(messages)
        return self

    def __getnewargs__(self) -> tuple[tuple[Message, ...], str]:  # type: ignore[override]  # of copies and pickles
        return self.messages, str(self)

    def __str__(self) -> str:
        return self[:]

    def __repr__(self) -> str:
        return f"Chat({list(self.messages)!r})"


def as_text(value: Any, where: str) -> str:
    """A text as it is, chat messages as a :class:`Chat`.

    Args:
        value: A text, or a list (array, tuple) of messages.
        where: Names it in errors.

    Raises:
        DataError: If it is neither, or a message is unusable; names the message.
    """
    return value if isinstance(value, str) else Chat(read_messages(value, where))


def read_messages(value: Any, where: str) -> list[dict[str, Any]]:
    """A list (array, tuple) of messages as the usual ones.

    Args:
        value: The messages.
        where: Names them in errors.

    Raises:
        DataError: If it is no list, or a message is unusable; names the message.
    """
    value = _listed(value)  # an array of objects, as data frames hold lists
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where}: expected a text or a list of chat messages, got {_shown(value)}")
    messages = [_message(message) for message in value]
    for number, message in enumerate(messages):
        if not _is_message(message):
            raise DataError(
                f"{where}: every chat message needs a text 'role' and a 'content' that is a text or a list of parts "
                f"(or 'tool_calls'), got {_shown(message)} as message {number}"
            )
    return messages


_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


def _message(value: Any) -> Any:
    """A message without the fields that are null, as columnar files fill them in; ShareGPT's words become the usual."""
    if not isinstance(value, Mapping):
        return value
    filled = {name: _listed(entry) for name, entry in value.items() if entry is not None or name == "content"}
    if "role" not in filled and isinstance(filled.get("from"), str) and "value" in filled:
        filled["role"], filled["content"] = _ROLES.get(said := filled.pop("from"), said), filled.pop("value")
    if "tool_calls" in filled:
        filled.setdefault("content", None)
    return filled


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    parts = isinstance(content, list) and all(isinstance(part, Mapping) for part in content)
    return isinstance(content, str) or parts or (content is None and isinstance(value.get("tool_calls"), list))


def as_messages(text: str, role: str = "user") -> list[dict[str, Any]]:
    """The messages of a :class:`Chat`; of a plain text one message of this role."""
    if isinstance(text, Chat):
        return [dict(message) for message in text.messages]
    return [{"role": role, "content": text}]


def as_json(text: str) -> str | list[dict[str, Any]]:
    """What a file holds for it: a text, or the list of messages; :func:`as_text` reads it back."""
    return as_messages(text) if isinstance(text, Chat) else text


def chat_text(messages: Sequence[Message]) -> str:
    """Messages as plain text: what people read, and what a policy without a chat template continues.

    One message is its words alone; else every message is a paragraph ``Role: words``, and where the assistant goes on
    the text ends in ``Assistant:`` (HH-RLHF's form). Tool calls stand as ``name(arguments)``.
    """
    if len(messages) == 1:
        return _words(messages[0])
    turns = [f"{str(message['role']).capitalize()}: {_words(message)}" for message in messages]
    return "\n\n".join([*turns, *(["Assistant:"] if messages[-1]["role"] != "assistant" else [])])


def _words(message: Message) -> str:
    calls = [dict(call.get("function", call)) for call in message.get("tool_calls") or ()]
    shown = [f"{call.get('name')}({_arguments(call.get('arguments', ''))})" for call in calls]
    return "\n".join([text for text in [message_text(message.get("content"))] if text or not shown] + shown)


def _arguments(given: Any) -> str:
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def message_text(content: Any) -> str:
    """The words of a message's content: a text, a list of parts (those of type text, joined), or nothing."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if part.get("type", "text") == "text")


def render_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    system: str | None = None,
    answering: bool | Literal["anew"] = True,
    where: str = "the conversation",
) -> str:
    """Messages as text, by the tokenizer's chat template.

    Contents are given to the template as they are; where it can only read the other form of a text (a string or a list
    of parts), they are given in that form.

    Args:
        tokenizer: Has a chat template.
        messages: ``{"role", "content"}`` and whatever else the template reads, such as ``tool_calls``.
        system: A system message for conversations that do not begin with one.
        answering: End where the assistant goes on: after the opening of its turn, or inside its last message where
            that is the conversation's last; ``anew``: after the opening of another turn, also there.
        where: Names the conversation in errors.

    Raises:
        ConfigError: If the tokenizer has no chat template.
        DataError: If the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", True) or not hasattr(tokenizer, "apply_chat_template"):
        raise ConfigError(
            f"chat prompts need a chat template, which {type(tokenizer).__name__} lacks ({where}); set "
            "`tokenizer.chat_template` (agents.lm.chat.default_chat_template makes a plain one), or give texts"
        )
    knows_calls = "tool_calls" in str(getattr(tokenizer, "chat_template", "tool_calls"))
    turns = [_for_template(message, knows_calls) for message in messages]
    if system and (not turns or turns[0].get("role") not in ("system", "developer")):
        turns.insert(0, {"role": "system", "content": system})
    first, problem = _apply(tokenizer, turns, answering)
    if first is not None and _complete(first, turns):
        return first
    other, _ = _apply(tokenizer, [_other_form(turn) for turn in turns], answering)
    if other is not None and (first is None or _complete(other, turns)):
        return other
    if first is None:
        raise DataError(f"the model's chat template refuses {where}: {problem}")
    return first


def _for_template(message: Message, knows_calls: bool) -> dict[str, Any]:
    """A message that says nothing with an empty text; tool calls as text for a template that would pass over them."""
    turn = dict(message)
    if turn.get("tool_calls") and not knows_calls:
        turn["content"] = _words(turn)
    elif turn.get("content") is None and not turn.get("tool_calls"):
        turn["content"] = ""
    if not turn.get("tool_calls") or not knows_calls:
        turn.pop("tool_calls", None)
    return turn


def _apply(tokenizer: Any, turns: list[dict[str, Any]], answering: bool | Literal["anew"]) -> tuple[str | None, str]:
    """The text, or None and what the template said."""
    from jinja2.exceptions import TemplateError

    goes_on = answering is True and bool(turns) and turns[-1].get("role") == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=bool(answering) and not goes_on,
            **({"continue_final_message": True} if goes_on else {}),
        )
    except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return None, f"{error}" or type(error).__name__
    return text, ""


def _complete(text: str, turns: list[dict[str, Any]]) -> bool:
    """Whether the last message's words stand in the text, and no list of parts was written out as Python shows it."""
    words = message_text(turns[-1].get("content")).strip() if turns else ""
    parts = any(isinstance(turn.get("content"), list) for turn in turns)
    return words in text and not (parts and "'type': 'text'" in text)


def _other_form(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn.get("content")
    if isinstance(content, str):
        return {**turn, "content": [{"type": "text", "text": content}]}
    if isinstance(content, list) and all(part.get("type", "text") == "text" for part in content):
        return {**turn, "content": message_text(content)}
    return turn


def turn_end_token(tokenizer: Any) -> int | None:
    """The special token that the chat template writes after what the assistant says; None where it writes none."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        before, after = (render_chat(tokenizer, turns, answering=len(turns) == 1) for turns in (said[:1], said))
    except (ConfigError, DataError):
        return None
    rest = after.removeprefix(before).lstrip()
    if not after.startswith(before) or not rest.startswith("b"):
        return None
    ids = tokenizer.encode(rest[1:].lstrip(), add_special_tokens=False)
    return int(ids[0]) if ids and ids[0] in _special_ids(tokenizer) else None


def _special_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*getattr(tokenizer, "all_special_ids", ()), *(i for i, token in added.items() if token.special)}


def with_system(template: str, system: str) -> str:
    """A chat template that begins conversations without a system message with this one."""
    text = json.dumps(system)  # a JSON text is one of jinja's too
    first = "messages and messages[0]['role'] in ('system', 'developer')"
    opening = f"[{{'role': 'system', 'content': {text}}}]"
    return f"{{% if not ({first}) %}}{{% set messages = {opening} + messages %}}{{% endif %}}{template}"
