"""Administration as JSON: links for raters, items to label, and what is going on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from textenv.answers import Chat, as_text
from textenv.errors import DataError, TextEnvError
from textenv.feedback.items import MakeConfig, make_from_store
from textenv.feedback.server.hosting import PolicyHost
from textenv.feedback.server.openai_requests import ApiError, parse_body
from textenv.feedback.server.security import Security
from textenv.feedback.server.selecting import Selection
from textenv.feedback.store import Answer, FeedbackStore, Item, Scale
from textenv.sampling.params import SamplingParams

_logger = logging.getLogger(__name__)


def admin_routes(
    store: FeedbackStore, hosts: Mapping[str, PolicyHost], security: Security, selection: Selection | None = None
) -> list[Route]:
    """Routes under ``/admin``; all need the access token where there is one."""
    api = _AdminApi(store, hosts, security, selection)
    return [
        Route("/admin/links", api.links, methods=["POST"]),
        Route("/admin/items", api.add_items, methods=["POST"]),
        Route("/admin/make", api.make, methods=["POST"]),
        Route("/admin/select", api.select, methods=["POST"]),
        Route("/admin/prompts", api.add_prompts, methods=["POST"]),
        Route("/admin/status", api.status, methods=["GET"]),
    ]


class ItemMaker:
    """Makes items in the background, one order after another.

    Args:
        store: Holds prompts and items.
        hosts: The policies.
    """

    def __init__(self, store: FeedbackStore, hosts: Sequence[PolicyHost]) -> None:
        self._store = store
        self._hosts = hosts
        self._turn = threading.Lock()
        self.orders = 0
        self.made = 0
        self.error = ""

    def start(self, config: MakeConfig, limit: int | None = None) -> threading.Thread:
        """Begin; what goes wrong is logged and shown in the status."""
        thread = threading.Thread(target=self._work, args=(config, limit), name="textenv-maker", daemon=True)
        self.orders += 1
        thread.start()
        return thread

    def _work(self, config: MakeConfig, limit: int | None) -> None:
        with self._turn:
            try:
                self.made += make_from_store(self._store, self._hosts, config, limit=limit)
                self.error = ""
            except TextEnvError as error:
                _logger.warning("making items failed: %s", error)
                self.error = str(error)
            finally:
                self.orders -= 1


class _AdminApi:
    def __init__(
        self, store: FeedbackStore, hosts: Mapping[str, PolicyHost], security: Security, selection: Selection | None
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._security = security
        self._selection = selection
        self._maker = ItemMaker(store, list(hosts.values()))

    async def links(self, request: Request) -> Response:
        """``{"rater", "days"?}``: a signed link, and the credential for programs."""
        body = await self._body(request)
        rater, days = body.get("rater"), body.get("days", 30)
        if not isinstance(rater, str) or not isinstance(days, int | float) or not 0 < days <= 3650:
            raise HTTPException(400, "`rater` must be a name, `days` a number up to 3650")
        await run_in_threadpool(self._store.add_rater, rater)
        link = self._security.rater_link(rater, seconds=days * 86400)
        return JSONResponse({"link": link, "credential": self._security.credential(rater, seconds=days * 86400)})

    async def add_items(self, request: Request) -> Response:
        """``{"items": [...], "overlap"?}``: items with their answers, as :class:`Item` has them."""
        body = await self._body(request)
        found = body.get("items")
        if not isinstance(found, list):
            raise HTTPException(400, "`items` must be a list")
        items = [_item(number, each) for number, each in enumerate(found)]
        new = await run_in_threadpool(self._store.add_items, items, overlap=body.get("overlap", 1.0))
        return JSONResponse({"new": new})

    async def add_prompts(self, request: Request) -> Response:
        """``{"prompts": [text or list of messages, ...], "source"?}``: prompts to make items of."""
        body = await self._body(request)
        prompts = body.get("prompts")
        if not isinstance(prompts, list) or not all(prompts):
            raise HTTPException(400, "`prompts` must be a list of texts or lists of messages, none of them empty")
        source = str(body.get("source", "admin"))
        texts = [as_text(prompt, f"prompts[{number}]") for number, prompt in enumerate(prompts)]

        def keep() -> None:
            for text in texts:
                messages = text.messages if isinstance(text, Chat) else ()
                self._store.collect_prompt(str(text), messages=messages, source=source)

        await run_in_threadpool(keep)
        return JSONResponse({"prompts": len(prompts)})

    async def make(self, request: Request) -> Response:
        """``MakeConfig``'s fields and ``limit``: answer the collected prompts in the background, and ask people."""
        body = await self._body(request)
        limit = body.pop("limit", None)
        config = _make_config(body)
        waiting = len(self._store.prompts(unused_only=True, limit=limit))
        self._maker.start(config, limit)
        return JSONResponse({"waiting": waiting}, 202)

    async def select(self, request: Request) -> Response:
        """``{}``: put the queue in order now, by the ensemble's disagreement, in the background."""
        await self._body(request)
        if self._selection is None:
            raise HTTPException(409, "items are asked at random; start the server with `--select ensemble`")
        self._selection.ask()
        return JSONResponse({"selecting": self._selection.status()}, 202)

    async def status(self, request: Request) -> Response:
        """Versions that are served, the queue, what is being made."""
        self._security.require_token(request)
        # Before the queue is counted: what is said to be made is in it.
        making = {"orders": self._maker.orders, "made": self._maker.made, "error": self._maker.error}
        progress = await run_in_threadpool(self._store.progress)
        served = {host.name: host.current for host in self._hosts.values()}
        return JSONResponse(
            {
                "policies": {n: {"version": s.version.version, "load": s.batcher.load} for n, s in served.items()},
                "labelled": progress.labelled,
                "skipped": progress.skipped,
                "remaining": progress.remaining,
                "selecting": None if self._selection is None else self._selection.status(),
                "making": making,
            }
        )

    async def _body(self, request: Request) -> dict[str, Any]:
        self._security.require_token(request)
        self._security.check_csrf(request)
        try:
            return parse_body(await request.body())
        except ApiError as error:
            raise HTTPException(400, str(error)) from error


def _make_config(body: dict[str, Any]) -> MakeConfig:
    known = {each.name for each in fields(MakeConfig)}
    unknown = set(body) - known
    if unknown:
        raise HTTPException(400, f"unknown fields {sorted(unknown)}; there are {sorted(known)}")
    try:
        sampling = body.get("sampling")
        given: dict[str, Any] = dict(body)
        if sampling is not None:
            given["sampling"] = SamplingParams(**sampling)
        return MakeConfig(**given)
    except (TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error


def _item(number: int, found: Any) -> Item:
    """An item from its JSON.

    Raises:
        DataError: If a field is unknown or unusable; names the item.
    """
    try:
        given = dict(found)
        answers: list[dict[str, Any]] = [dict(answer) for answer in given.get("answers", ())]
        for answer in answers:
            answer["text"] = as_text(answer["text"], "`answers.text`")
        given["answers"] = tuple(Answer(**answer) for answer in answers)
        prompt = as_text(given.get("messages") or given["prompt"], "`messages` or `prompt`")
        given["messages"] = prompt.messages if isinstance(prompt, Chat) else ()
        if not isinstance(given.get("prompt"), str):  # a prompt may be the messages themselves
            given["prompt"] = str(prompt)
        scale = given.get("scale")
        if scale is not None:
            anchors = {int(key): str(text) for key, text in scale.get("anchors", {}).items()}
            given["scale"] = Scale(scale["low"], scale["high"], anchors)
        return Item(**given)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"items[{number}]: {error}") from error
