"""Answers in OpenAI's form: whole, and as the pieces of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from textenv.feedback.server.batching import Chunk, TokenInfo
from textenv.feedback.server.hosting import Served
from textenv.feedback.server.prompts import Encoded


class Finished(NamedTuple):
    """A whole answer."""

    text: str
    tokens: tuple[TokenInfo, ...]
    finish_reason: str


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
        top_logprobs: How many of the most probable tokens to tell; None tells no log-probabilities.
        prompts: The prompts.
    """

    prefix = ""
    whole_object = ""
    piece_object = ""

    def __init__(self, served: Served, top_logprobs: int | None, prompts: Sequence[Encoded]) -> None:
        self._tokenizer = served.policy.tokenizer
        self._tops = top_logprobs
        self._prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
        self._common = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served.version.name,
            "system_fingerprint": served.fingerprint,
        }
        self._offsets: dict[int, int] = {}

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """All answers."""
        choices = [
            {"index": index, "finish_reason": answer.finish_reason}
            | self._whole_choice(answer)
            | {"logprobs": self._told(index, answer.tokens)}
            for index, answer in enumerate(answers)
        ]
        count = sum(len(answer.tokens) for answer in answers)
        numbers = {"usage": usage(self._prompt_tokens, count)}
        return {**self._common, "object": self.whole_object, "choices": choices, **numbers}

    def piece(self, chunk: Chunk) -> list[dict[str, Any]]:
        """A piece of an answer as events."""
        told = self._told(chunk.number, chunk.tokens)
        return [self._event([choice]) for choice in self._piece_choices(chunk, told)]

    def last(self, completion_tokens: int) -> dict[str, Any]:
        """The event that tells the numbers of tokens."""
        return self._event([]) | {"usage": usage(self._prompt_tokens, completion_tokens)}

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Events before the first piece."""
        return []

    @abstractmethod
    def _whole_choice(self, answer: Finished) -> dict[str, Any]: ...

    @abstractmethod
    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _logprobs(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any]: ...

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common, "object": self.piece_object, "choices": choices}

    def _told(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        return None if self._tops is None else self._logprobs(index, tokens)

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])


class CompletionForm(Form):
    """``/v1/completions``."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def _whole_choice(self, answer: Finished) -> dict[str, Any]:
        return {"text": answer.text}

    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]:
        return [{"index": chunk.number, "text": chunk.text, "logprobs": told, "finish_reason": chunk.finish_reason}]

    def _logprobs(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        texts = [self._text(token.token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.setdefault(index, 0))
            self._offsets[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._text(top): logprob for top, logprob in token.top} for token in tokens],
            "text_offset": offsets,
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

    def _whole_choice(self, answer: Finished) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": answer.text, "refusal": None}}

    def _piece_choices(self, chunk: Chunk, told: Any) -> list[dict[str, Any]]:
        content = [_piece(chunk.number, {"content": chunk.text}, told, None)] if chunk.text or told else []
        end = [] if chunk.finish_reason is None else [_piece(chunk.number, {}, None, chunk.finish_reason)]
        return content + end

    def _logprobs(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        told = [
            self._one(token.token, token.logprob) | {"top_logprobs": [self._one(*top) for top in token.top]}
            for token in tokens
        ]
        return {"content": told, "refusal": None}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _piece(index: int, delta: dict[str, Any], told: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
