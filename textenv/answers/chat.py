"""Conversations as the text that a chat template makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textenv.errors import ConfigError, DataError


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
    answering: bool = True,
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
            that is the conversation's last.
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
    turns = [dict(message) for message in messages]
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


def _apply(tokenizer: Any, turns: list[dict[str, Any]], answering: bool) -> tuple[str | None, str]:
    """The text, or None and what the template said."""
    from jinja2.exceptions import TemplateError

    goes_on = answering and bool(turns) and turns[-1].get("role") == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=answering and not goes_on,
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
