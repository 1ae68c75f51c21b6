"""Chats in a policy's tokens, and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textenv.answers import answers_of, message_text
from textenv.protocols import GenerativePolicy


def encode_chat(messages: Sequence[Mapping[str, Any]], policy: GenerativePolicy) -> list[int]:
    """Token ids of a chat: by the tokenizer's template, or of its plain text where it has none.

    Raises:
        DataError: If the template refuses the messages.
    """
    if not getattr(policy.tokenizer, "chat_template", None):
        return list(policy.encode_prompt(chat_text(messages)))
    return answers_of(policy).encode_chat(messages, where="these messages").ids


def encode_prompt(text: str, messages: Sequence[Mapping[str, Any]], policy: GenerativePolicy) -> list[int]:
    """Token ids of a text, or of a chat where there are messages.

    Raises:
        DataError: If the chat template refuses the messages.
    """
    return encode_chat(messages, policy) if messages else list(policy.encode_prompt(text))


def chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A chat as plain text: what people read, and what a policy without a chat template continues.

    One message of a user is its text alone; else every message is named, and the assistant's turn is open.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return message_text(messages[0]["content"])
    turns = [f"{message['role'].capitalize()}: {message_text(message['content'])}" for message in messages]
    return "\n\n".join([*turns, "Assistant:"])
