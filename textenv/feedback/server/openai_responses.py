"""Answers in OpenAI's form: whole, and as the pieces of a stream."""

from __future__ import annotations

import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from textenv.feedback.server.batching import Chunk, TokenInfo
from textenv.feedback.server.hosting import Served
from textenv.feedback.server.openai_requests import Wanted
from textenv.feedback.server.prompts import Encoded
from textenv.feedback.server.token_texts import Offsets, token_texts


class Finished(NamedTuple):
    """A whole answer."""

    text: str
    tokens: tuple[TokenInfo, ...]
    finish_reason: str
    prompt: tuple[TokenInfo, ...] = ()


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Numbers of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Form(ABC):
    """How answers of an endpoint look.

    Args:
        served: What answers.
        wanted: What was asked for.
        prompts: The prompts.
    """

    prefix = ""
    whole_object = ""
    piece_object = ""

    def __init__(self, served: Served, wanted: Wanted, prompts: Sequence[Encoded]) -> None:
        self._texts = token_texts(served.policy.tokenizer)
        self._tops = wanted.top_logprobs
        self._echo = [prompt.text for prompt in prompts for _ in range(wanted.n)] if wanted.echo else []
        self._prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
        self._common = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served.version.name,
            "system_fingerprint": served.fingerprint,
        }

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """All answers."""
        choices = [
            {"index": index, "finish_reason": answer.finish_reason}
            | self._whole_choice(index, answer)
            | {"logprobs": self._told(Chunk(index, answer.text, answer.tokens, None, answer.prompt))}
            for index, answer in enumerate(answers)
        ]
        count = sum(len(answer.tokens) for answer in answers)
        numbers = {"usage": usage(self._prompt_tokens, count)}
        return {**self._common, "object": self.whole_object, "choices": choices, **numbers}

    def piece(self, chunk: Chunk) -> list[dict[str, Any]]:
        """A piece of an answer as events."""
        told = self._told(chunk)
        return [self._event([choice]) for choice in self._piece_choices(chunk, told)]

    def last(self, completion_tokens: int) -> dict[str, Any]:
        """The event that tells the numbers of tokens."""
        return self._event([]) | {"usage": usage(self._prompt_tokens, completion_tokens)}

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Events before the first piece."""
        return []

    @abstractmethod
    def _whole_choice(self, index: int, answer: Finished) -> dict[str, Any]: ...

    @abstractmethod
    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _logprobs(self, chunk: Chunk) -> dict[str, Any]: ...

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common, "object": self.piece_object, "choices": choices}

    def _told(self, chunk: Chunk) -> dict[str, Any] | None:
        return None if self._tops is None else self._logprobs(chunk)


class CompletionForm(Form):
    """``/v1/completions``."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def __init__(self, served: Served, wanted: Wanted, prompts: Sequence[Encoded]) -> None:
        super().__init__(served, wanted, prompts)
        self._offsets: dict[int, Offsets] = {}

    def _whole_choice(self, index: int, answer: Finished) -> dict[str, Any]:
        return {"text": (self._echo[index] if self._echo else "") + answer.text}

    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]:
        text = (self._echo[chunk.number] if self._echo else "") + chunk.text
        if self._echo:
            self._echo[chunk.number] = ""  # once
        return [{"index": chunk.number, "text": text, "logprobs": told, "finish_reason": chunk.finish_reason}]

    def _logprobs(self, chunk: Chunk) -> dict[str, Any]:
        tokens = (*chunk.prompt, *chunk.tokens)
        if chunk.number not in self._offsets:
            self._offsets[chunk.number] = Offsets()
        offsets, begins = self._offsets[chunk.number], []
        if chunk.prompt:
            begins = offsets.extend(self._echo[chunk.number], [self._texts.bytes(t.token) for t in chunk.prompt])
            offsets.catch_up()
        begins += offsets.extend(chunk.text, [self._texts.bytes(token.token) for token in chunk.tokens])
        return {
            "tokens": [self._texts.text(token.token) for token in tokens],
            "token_logprobs": [None if math.isnan(token.logprob) else token.logprob for token in tokens],
            "top_logprobs": [None if math.isnan(token.logprob) else self._texts.by_text(token.top) for token in tokens],
            "text_offset": begins,
        }


class ChatForm(Form):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Says who speaks, for each answer."""
        return [
            self._event([_piece(index, {"role": "assistant", "content": ""}, None, None)]) for index in range(count)
        ]

    def _whole_choice(self, index: int, answer: Finished) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": answer.text, "refusal": None}}

    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]:
        content = [_piece(chunk.number, {"content": chunk.text}, told, None)] if chunk.text or told else []
        end = [] if chunk.finish_reason is None else [_piece(chunk.number, {}, None, chunk.finish_reason)]
        return content + end

    def _logprobs(self, chunk: Chunk) -> dict[str, Any]:
        told = [
            self._one(token.token, token.logprob) | {"top_logprobs": [self._one(*top) for top in token.top]}
            for token in chunk.tokens
        ]
        return {"content": told, "refusal": None}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._texts.text(token), "logprob": logprob, "bytes": list(self._texts.bytes(token))}


def _piece(index: int, delta: dict[str, Any], told: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
