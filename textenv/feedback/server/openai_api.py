"""The OpenAI-compatible API: completions, chat completions, models, streams of server-sent events.

Requests of all callers share one engine (:mod:`textenv.feedback.server.batching`). Answers say which version of the
policy made them (``system_fingerprint``); prompts are kept for labelling where the caller says ``store``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from textenv.errors import ConfigError
from textenv.feedback.server.batching import AnswerRequest, Chunk, Overloaded, Ticket
from textenv.feedback.server.hosting import PolicyHost, Served
from textenv.feedback.server.openai_requests import (
    ApiError,
    ApiLimits,
    Wanted,
    parse_body,
    parse_chat,
    parse_completion,
)
from textenv.feedback.server.openai_responses import ChatForm, CompletionForm, Finished, Form
from textenv.feedback.server.prompts import Encoded, encode
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore


def openai_routes(
    hosts: Mapping[str, PolicyHost], store: FeedbackStore, limits: ApiLimits, security: Security
) -> list[Route]:
    """Routes under ``/v1``; all need the access token where there is one.

    Args:
        hosts: The policies by name.
        store: Keeps prompts.
        limits: Of one request.
        security: Checks who asks.
    """
    api = _Api(hosts, store, limits, security)
    return [
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.model, methods=["GET"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]


class _Api:
    def __init__(
        self, hosts: Mapping[str, PolicyHost], store: FeedbackStore, limits: ApiLimits, security: Security
    ) -> None:
        self._security = security
        self._hosts = hosts
        self._store = store
        self._limits = limits

    async def models(self, request: Request) -> Response:
        self._security.require_token(request)
        return JSONResponse({"object": "list", "data": [_model(host.current) for host in self._hosts.values()]})

    async def model(self, request: Request) -> Response:
        self._security.require_token(request)
        with self._using(request.path_params["name"]) as served:
            return JSONResponse(_model(served))

    async def completions(self, request: Request) -> Response:
        self._security.require_token(request)
        body = parse_body(await request.body())
        wanted = parse_completion(body, self._limits)
        return await self._answer(request, body.get("model"), wanted, CompletionForm)

    async def chat(self, request: Request) -> Response:
        self._security.require_token(request)
        body = parse_body(await request.body())
        wanted = parse_chat(body, self._limits)
        return await self._answer(request, body.get("model"), wanted, ChatForm)

    @contextmanager
    def _using(self, model: Any) -> Iterator[Served]:
        """The version that answers a request; it does so to the end, also where a newer one comes meanwhile."""
        if not isinstance(model, str) or not model:
            raise ApiError("you must provide a model parameter", param="model")
        name, _, version = model.partition("@")
        host = self._hosts.get(name)
        with nullcontext() if host is None else host.using() as served:
            if served is None or (version and version != served.version.version):
                raise ApiError(
                    f"The model '{model}' does not exist; there are: {', '.join(self._hosts)}",
                    status=404,
                    code="model_not_found",
                    param="model",
                )
            yield served

    async def _answer(self, request: Request, model: Any, wanted: Wanted, kind: type[Form]) -> Response:
        with self._using(model) as served:
            prompts = await run_in_threadpool(encode, wanted, served)
            if wanted.store:
                await run_in_threadpool(self._keep, prompts, wanted)
            form = kind(served, wanted, prompts)
            answers = _Answers(served, wanted, prompts)
        if wanted.stream:
            events = _events(form, answers, wanted)
            # The first piece decides about the status: an error before it is no stream.
            first = await anext(events)
            return StreamingResponse(_chained(first, events), media_type="text/event-stream")
        finished = await _until_gone(request, answers)
        if finished is None:
            return Response(status_code=499)
        return JSONResponse(form.whole(finished))

    def _keep(self, prompts: Sequence[Encoded], wanted: Wanted) -> None:
        source = "api:chat" if wanted.messages else "api:completions"
        for prompt in prompts:
            self._store.collect_prompt(prompt.text, messages=wanted.messages, source=source)


class _Answers:
    """The answers of one request, as the batcher's thread hands them to the event loop.

    Choices are numbered through: answer j to prompt i is number ``i * n + j``. Prompt i is sampled with ``seed + i``.
    """

    def __init__(self, served: Served, wanted: Wanted, prompts: Sequence[Encoded]) -> None:
        self.count = len(prompts) * wanted.n
        self._served = served
        self._arrived: asyncio.Queue[Chunk] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._tickets: list[Ticket] = []
        try:
            for number, prompt in enumerate(prompts):
                self._submit(number, prompt, wanted)
        except Overloaded as error:
            self.cancel()
            raise ApiError(str(error), status=429, kind="rate_limit_error", code="overloaded") from error
        except ConfigError as error:
            self.cancel()
            raise ApiError(str(error)) from error

    def _submit(self, number: int, prompt: Encoded, wanted: Wanted) -> None:
        request = AnswerRequest(
            prompt_ids=prompt.ids,
            params=replace(wanted.params, max_new_tokens=max(1, prompt.new_tokens)),
            n=wanted.n,
            seed=wanted.seed + number,
            stops=wanted.stops,
            top_logprobs=wanted.top_logprobs,
            stream=wanted.stream,
            score_prompt=wanted.echo and wanted.top_logprobs is not None,
            answer=prompt.new_tokens > 0,
        )

        def listen(chunk: Chunk) -> None:
            shifted = chunk._replace(number=number * wanted.n + chunk.number)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._arrived.put_nowait, shifted)

        self._tickets.append(self._served.batcher.submit(request, listen))

    def cancel(self) -> None:
        """Nobody listens any more."""
        for ticket in self._tickets:
            ticket.cancelled = True

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Pieces until every answer has ended.

        Raises:
            ApiError: If decoding failed.
        """
        left = self.count
        while left:
            chunk = await self._arrived.get()
            if chunk.finish_reason == "error":
                raise ApiError("The server had an error while making the answer.", status=500, kind="server_error")
            left -= chunk.finish_reason is not None
            yield chunk

    async def finished(self) -> list[Finished]:
        """All answers, whole, in their order."""
        found: dict[int, Finished] = {}
        async for chunk in self.chunks():
            found[chunk.number] = Finished(chunk.text, chunk.tokens, chunk.finish_reason or "", chunk.prompt)
        return [found[index] for index in range(self.count)]


async def _until_gone(request: Request, answers: _Answers) -> list[Finished] | None:
    """All answers; None where the caller hung up, whose slots are free again then."""
    work = asyncio.ensure_future(answers.finished())
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        gone.cancel()
        answers.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(form: Form, answers: _Answers, wanted: Wanted) -> AsyncIterator[str]:
    """Server-sent events of a stream."""
    tokens = 0
    try:
        for event in form.opening(answers.count):
            yield _event(event)
        async for chunk in answers.chunks():
            tokens += len(chunk.tokens)
            for event in form.piece(chunk):
                yield _event(event)
        if wanted.include_usage:
            yield _event(form.last(tokens))
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status has been sent: the error is the last event
        yield _event(error.body)
    finally:
        answers.cancel()


async def _chained(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _model(served: Served) -> dict[str, Any]:
    version = served.version
    return {
        "id": version.name,
        "object": "model",
        "created": int(version.created or time.time()),
        "owned_by": "textenv",
        "version": version.version,
    }
