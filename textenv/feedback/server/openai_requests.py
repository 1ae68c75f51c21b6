"""What callers of the OpenAI-compatible API may ask for, checked.

Fields that would change the answer and are not supported are refused, not ignored; fields that change nothing here are
let through.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textenv.errors import TextEnvError
from textenv.sampling.params import SamplingParams


class ApiError(TextEnvError):
    """An answer in OpenAI's form to a request that cannot be served.

    Args:
        message: What is wrong and what to do.
        status: Of HTTP.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``.
        param: The field.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class ApiLimits:
    """What one request may ask for.

    Attributes:
        max_new_tokens: Longest answer in tokens; None: as long as the context.
        max_answers: Answers in one request, over all its prompts.
        max_stops: Stop strings.
        default_new_tokens: Length limit of a completion that names none (OpenAI's is 16), where the context has room
            for it; an answer in a chat may then fill the context.
        max_scores: Responses that a reward model is asked about in one request.
    """

    max_new_tokens: int | None = None
    max_answers: int = 32
    max_stops: int = 4
    default_new_tokens: int = 16
    max_scores: int = 256


@dataclass(frozen=True)
class Wanted:
    """A request, understood.

    Attributes:
        prompts: Texts, or lists of token ids.
        messages: The chat; empty for completions.
        params: Sampling settings.
        new_tokens: Length limit that the caller names; None where they name none. 0 scores the prompt alone.
        most_tokens: Length limit where they name none, as far as the context has room.
        n: Answers per prompt.
        seed: Of the draws.
        stops: Stop strings.
        top_logprobs: How many of the most probable tokens to tell; None tells no log-probabilities at all.
        stream: Whether pieces are wanted as they come.
        include_usage: Whether a stream ends with the numbers of tokens.
        store: Whether the prompt may be kept for labelling.
        echo: Whether the prompt comes back before the answer, its tokens scored where log-probabilities are told.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    messages: tuple[Mapping[str, Any], ...]
    params: SamplingParams
    new_tokens: int | None
    most_tokens: int
    n: int
    seed: int
    stops: tuple[str, ...]
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    store: bool
    echo: bool = False


class _Fields:
    """The fields of a request, each read with its type and range."""

    def __init__(self, body: Mapping[str, Any], known: set[str]) -> None:
        self.body = body
        unknown = sorted(set(body) - known)
        if unknown:
            raise ApiError(f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ApiError(f"'{name}' must be a number from {low:g} to {high:g}, got {value!r}", param=name)
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ApiError(f"'{name}' must be a whole number from {low} to {high}, got {value!r}", param=name)
        return value

    def flag(self, name: str) -> bool:
        value = self.body.get(name)
        if value is not None and not isinstance(value, bool):
            raise ApiError(f"'{name}' must be true or false, got {value!r}", param=name)
        return bool(value)

    def must_be_off(self, name: str, *neutral: Any) -> None:
        if self.body.get(name) not in (None, *neutral):
            raise ApiError(f"'{name}' is not supported", param=name, code="unsupported_parameter")


_COMMON = {
    *("model", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "store", "metadata", "user"),
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs"),
    *("max_tokens", "safety_identifier", "prompt_cache_key"),
}
_COMPLETION = _COMMON | {"prompt", "best_of", "echo", "suffix"}
_CHAT = _COMMON | {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "response_format"} | {
    *("functions", "function_call", "modalities", "service_tier", "reasoning_effort", "verbosity", "audio"),
    *("prediction", "parallel_tool_calls", "web_search_options"),
}  # fmt: skip
_MAX_SEED = 2**63 - 1
_MAX_TOKENS = 2**31 - 1


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ApiError: If it is none.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError("We could not parse the JSON body of your request.") from error
    if not isinstance(body, dict):
        raise ApiError("the body of a request must be a JSON object")
    return body


def parse_completion(body: Mapping[str, Any], limits: ApiLimits) -> Wanted:
    """A request to ``/v1/completions``.

    Raises:
        ApiError: If a field is unknown, unusable or not supported.
    """
    fields = _Fields(body, _COMPLETION)
    fields.must_be_off("suffix", "")
    fields.must_be_off("best_of", 1, body.get("n"))
    echo, logprobs = fields.flag("echo"), fields.whole("logprobs", -1, 0, 5)
    named = fields.whole("max_tokens", -1, 0 if echo else 1, limits.max_new_tokens or _MAX_TOKENS)
    told = None if logprobs < 0 else logprobs
    return _wanted(
        fields,
        limits,
        _prompts(body.get("prompt")),
        (),
        named,
        min(limits.default_new_tokens, limits.max_new_tokens or _MAX_TOKENS),
        told,
        echo,
    )


def parse_chat(body: Mapping[str, Any], limits: ApiLimits) -> Wanted:
    """A request to ``/v1/chat/completions``.

    Raises:
        ApiError: If a field is unknown, unusable or not supported.
    """
    fields = _Fields(body, _CHAT)
    for name in ("tools", "functions", "function_call", "audio", "prediction", "web_search_options"):
        fields.must_be_off(name, [])
    fields.must_be_off("tool_choice", "none", "auto")
    fields.must_be_off("response_format", {"type": "text"})
    fields.must_be_off("modalities", ["text"])
    most = limits.max_new_tokens or _MAX_TOKENS
    named = fields.whole("max_completion_tokens", fields.whole("max_tokens", -1, 1, most), 1, most)
    tops = fields.whole("top_logprobs", 0, 0, 20)
    if tops and not fields.flag("logprobs"):
        raise ApiError("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    told = tops if fields.flag("logprobs") else None
    return _wanted(fields, limits, ("",), _messages(body.get("messages")), named, most, told)


def _wanted(
    fields: _Fields,
    limits: ApiLimits,
    prompts: tuple[str | tuple[int, ...], ...],
    messages: tuple[Mapping[str, Any], ...],
    named_tokens: int,
    most_tokens: int,
    top_logprobs: int | None,
    echo: bool = False,
) -> Wanted:
    """The fields that both endpoints have."""
    for name in ("presence_penalty", "frequency_penalty"):
        fields.must_be_off(name, 0)
    fields.must_be_off("logit_bias", {})
    n = fields.whole("n", 1, 1, limits.max_answers)
    if n * len(prompts) > limits.max_answers:
        raise ApiError(
            f"'n' times the number of prompts may be {limits.max_answers}, got {n * len(prompts)}", param="n"
        )
    options = fields.body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise ApiError("'stream_options' must be an object", param="stream_options")
    return Wanted(
        prompts=prompts,
        messages=messages,
        params=SamplingParams(
            temperature=fields.number("temperature", 1.0, 0, 2),
            top_p=max(fields.number("top_p", 1.0, 0, 1), 1e-9),  # OpenAI allows 0: the most probable token alone
            top_k=fields.whole("top_k", 0, 0, 1_000_000),
            min_p=fields.number("min_p", 0.0, 0, 1),
            repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 100),
        ),
        new_tokens=None if named_tokens < 0 else named_tokens,
        most_tokens=most_tokens,
        n=n,
        seed=fields.whole("seed", secrets.randbits(48), -_MAX_SEED - 1, _MAX_SEED),
        stops=_stops(fields.body.get("stop"), limits),
        top_logprobs=top_logprobs,
        stream=fields.flag("stream"),
        include_usage=bool(options.get("include_usage")),
        store=fields.flag("store"),
        echo=echo,
    )


def _stops(value: Any, limits: ApiLimits) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    usable = isinstance(stops, list) and all(isinstance(stop, str) and 0 < len(stop) <= 1000 for stop in stops)
    if not usable or len(stops) > limits.max_stops:
        raise ApiError(f"'stop' must be a text or up to {limits.max_stops} texts, none of them empty", param="stop")
    return tuple(stops)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, several texts, token ids, or several lists of token ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(part, str) for part in value):
            return tuple(value)
        if _ids(value):
            return (tuple(value),)
        if all(isinstance(part, list) and part and _ids(part) for part in value):
            return tuple(tuple(part) for part in value)
    raise ApiError("'prompt' must be a text, a list of texts, a list of token ids, or a list of these", param="prompt")


def _ids(value: Sequence[Any]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value)


_ROLES = ("system", "developer", "user", "assistant", "tool")


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Messages as the chat template reads them: a role and a text, tool calls and what tools said."""
    if not isinstance(value, list) or not value:
        raise ApiError("'messages' must be a list with at least one message", param="messages")
    found: list[Mapping[str, Any]] = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise ApiError(f"'{where}' needs a role: {', '.join(_ROLES[:-1])} or tool", param=f"{where}.role")
        for name in ("function_call", "audio"):
            if message.get(name) is not None:
                raise ApiError(
                    f"'{where}.{name}' is not supported", param=f"{where}.{name}", code="unsupported_parameter"
                )
        role = "system" if message["role"] == "developer" else message["role"]
        calls = _tool_calls(message.get("tool_calls"), where) if role == "assistant" else []
        if message.get("content") is None and calls:
            read = {"role": role, "content": None}
        else:
            read = {"role": role, "content": _content(message.get("content"), where)}
        if calls:
            read["tool_calls"] = calls
        for name in ("name", "tool_call_id"):
            if isinstance(message.get(name), str):
                read[name] = message[name]
        if role == "tool" and "tool_call_id" not in read:
            raise ApiError(f"'{where}' needs a 'tool_call_id'", param=f"{where}.tool_call_id")
        found.append(read)
    return tuple(found)


def _tool_calls(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    calls: list[Any] = value if isinstance(value, list) else [None]
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not all(isinstance(function.get(n), str) for n in ("name", "arguments")):
            name = f"{where}.tool_calls[{number}]"
            raise ApiError(f"'{name}' must have a 'function' with 'name' and 'arguments' as texts", param=name)
    return calls


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in parts):
        raise ApiError(f"'{where}.content' must be a text, or a list of parts of type text", param=f"{where}.content")
    return "".join(part["text"] for part in parts)
