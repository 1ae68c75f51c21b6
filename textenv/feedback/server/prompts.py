"""Prompts of requests in the policy's tokens, chats included, and as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from textenv.answers import answers_of, chat_text
from textenv.errors import DataError
from textenv.feedback.server.chat import encode_chat
from textenv.feedback.server.hosting import Served
from textenv.feedback.server.openai_requests import ApiError, Wanted
from textenv.sampling.params import settle


class Encoded(NamedTuple):
    """A prompt for the policy, and for people.

    Attributes:
        ids: Token ids.
        text: As people read it.
    """

    ids: list[int]
    text: str


def encode(wanted: Wanted, served: Served) -> list[Encoded]:
    """The prompts of a request in the policy's tokens.

    Raises:
        ApiError: If a prompt is empty, holds unknown tokens, does not suit the chat template or is too long.
    """
    if wanted.messages:
        prompts = [Encoded(_encode_chat(wanted.messages, served), chat_text(wanted.messages))]
    else:
        prompts = [_encode_prompt(prompt, served) for prompt in wanted.prompts]
    wanted_tokens = settle(served.policy, wanted.params)[0].max_new_tokens
    room = served.batcher.max_length - wanted_tokens
    for prompt in prompts:
        if not prompt.ids:
            raise ApiError("a prompt must have at least one token", param="prompt")
        if len(prompt.ids) > room:
            raise ApiError(
                f"This model's maximum context length is {served.batcher.max_length} tokens. However, you requested "
                f"{len(prompt.ids) + wanted_tokens} tokens ({len(prompt.ids)} in the prompt, {wanted_tokens} in the "
                "completion).",
                code="context_length_exceeded",
                param="messages" if wanted.messages else "prompt",
            )
    return prompts


def _encode_prompt(prompt: str | tuple[int, ...], served: Served) -> Encoded:
    policy = served.policy
    if isinstance(prompt, str):  # as it stands, without the chat template that a policy may have been trained with
        return Encoded(answers_of(policy).encode_text(prompt).ids if prompt else [], prompt)
    if not all(0 <= token < policy.vocab_size for token in prompt):
        raise ApiError(f"token ids must lie in 0…{policy.vocab_size - 1}", param="prompt")
    return Encoded(list(prompt), policy.tokenizer.decode(list(prompt)))


def _encode_chat(messages: Sequence[Mapping[str, str]], served: Served) -> list[int]:
    try:
        return encode_chat(messages, served.policy)
    except DataError as error:
        raise ApiError(str(error), param="messages") from error
