"""Prompts of requests in the policy's tokens, chats included, and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from textenv.answers import answers_of, chat_text, message_text
from textenv.errors import DataError
from textenv.feedback.server.chat import encode_chat
from textenv.feedback.server.hosting import Served
from textenv.feedback.server.openai_requests import ApiError, Wanted


class Encoded(NamedTuple):
    """A prompt for the policy, and for people.

    Attributes:
        ids: Token ids.
        text: As people read it.
        new_tokens: Length limit of its answers; 0 scores the prompt alone.
    """

    ids: list[int]
    text: str
    new_tokens: int = 1


def encode(wanted: Wanted, served: Served) -> list[Encoded]:
    """The prompts of a request in the policy's tokens.

    Raises:
        ApiError: If a prompt is empty, holds unknown tokens, does not suit the chat template or is too long.
    """
    if wanted.messages:
        prompts = [Encoded(_encode_chat(wanted.messages, served), chat_text(wanted.messages))]
    else:
        prompts = [_encode_prompt(prompt, served) for prompt in wanted.prompts]
    if wanted.echo and wanted.top_logprobs is not None and answers_of(served.policy).format.encoder_decoder:
        raise ApiError("'echo' with 'logprobs' needs a model that reads and writes one text", param="echo")
    least = 1 if wanted.new_tokens is None else wanted.new_tokens
    for prompt in prompts:
        if not prompt.ids:
            raise ApiError("a prompt must have at least one token", param="prompt")
        if len(prompt.ids) + least > served.batcher.max_length:
            raise ApiError(
                f"This model's maximum context length is {served.batcher.max_length} tokens. However, you requested "
                f"{len(prompt.ids) + least} tokens ({len(prompt.ids)} in the prompt, {least} in the "
                "completion).",
                code="context_length_exceeded",
                param="messages" if wanted.messages else "prompt",
            )
    if wanted.new_tokens is not None:
        return [prompt._replace(new_tokens=wanted.new_tokens) for prompt in prompts]
    room = [served.batcher.max_length - len(prompt.ids) for prompt in prompts]
    return [p._replace(new_tokens=min(wanted.most_tokens, left)) for p, left in zip(prompts, room, strict=True)]


def _encode_prompt(prompt: str | tuple[int, ...], served: Served) -> Encoded:
    policy = served.policy
    if isinstance(prompt, str):  # as it stands, without the chat template that a policy may have been trained with
        return Encoded(answers_of(policy).encode_text(prompt).ids if prompt else [], prompt)
    if not all(0 <= token < policy.vocab_size for token in prompt):
        raise ApiError(f"token ids must lie in 0…{policy.vocab_size - 1}", param="prompt")
    return Encoded(list(prompt), policy.tokenizer.decode(list(prompt)))


def _encode_chat(messages: Sequence[Mapping[str, Any]], served: Served) -> list[int]:
    try:
        ids = encode_chat(messages, served.policy)
    except DataError as error:
        raise ApiError(str(error), param="messages") from error
    _check_said(messages, served, ids)
    return ids


def _check_said(messages: Sequence[Mapping[str, Any]], served: Served, ids: Sequence[int]) -> None:
    """Refuse what the chat template leaves out: many know no tools, and pass such messages over without a word."""
    if not any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
        return
    said = served.policy.tokenizer.decode(list(ids))
    for number, message in enumerate(messages):
        calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
        words = [*calls, *([message_text(message.get("content"))] if message["role"] == "tool" else [])]
        if not all(word.strip() in said for word in words):
            raise ApiError(
                f"the model's chat template leaves the tool calls or results of 'messages[{number}]' out",
                param=f"messages[{number}]",
                code="unsupported_value",
            )
