"""Chats in a policy's tokens, and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textenv.answers import answers_of, chat_text
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
