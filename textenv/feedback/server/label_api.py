"""Labelling as JSON: what pages with scripts, the terminal form and simulated people use.

A rater proves who they are by the session cookie of their link, or by their credential as bearer. What they get never
says which policy an answer comes from, nor what the right answer of a gold question is.
"""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from textenv.answers import chat_text
from textenv.errors import DataError
from textenv.feedback.server.openai_requests import ApiError, parse_body
from textenv.feedback.server.security import Security
from textenv.feedback.server.turns import Turns
from textenv.feedback.store import KINDS, Assignment, FeedbackStore, Label, LabelConflict, Progress


def label_routes(store: FeedbackStore, security: Security, turns: Turns) -> list[Route]:
    """Routes under ``/api``, and the one that opens a rater's link.

    Args:
        store: Of what is asked and said.
        security: Says who asks.
        turns: Work on the store is done here.
    """
    api = _LabelApi(store, security, turns)
    return [
        Route("/label/enter", security.enter, methods=["GET"]),
        Route("/api/session", api.session, methods=["GET"]),
        Route("/api/next", api.next, methods=["GET"]),
        Route("/api/labels", api.save, methods=["POST"]),
        Route("/api/undo", api.undo, methods=["POST"]),
        Route("/api/release", api.release, methods=["POST"]),
        Route("/api/progress", api.progress, methods=["GET"]),
    ]


def blind_assignment(assignment: Assignment | None) -> dict[str, Any] | None:
    """An assignment as its rater may see it: answers in their order, without provenance, no gold."""
    if assignment is None:
        return None
    item = assignment.item
    scale = item.scale
    return {
        "id": item.id,
        "kind": item.kind,
        "prompt": item.prompt,
        "messages": [{"role": message["role"], "content": chat_text([message])} for message in item.messages],
        "instructions": item.instructions,
        "scale": None if scale is None else {"low": scale.low, "high": scale.high, "anchors": dict(scale.anchors)},
        "answers": [{"answer": number, "text": item.answers[number].text} for number in assignment.order],
        "order": list(assignment.order),
        "expires": assignment.expires,
    }


class _LabelApi:
    def __init__(self, store: FeedbackStore, security: Security, turns: Turns) -> None:
        self._store = store
        self._security = security
        self._turn = turns

    async def session(self, request: Request) -> Response:
        rater = self._security.rater(request)
        return JSONResponse({"rater": rater, "csrf": self._security.csrf_token(request)})

    async def next(self, request: Request) -> Response:
        rater, kinds = self._security.rater(request), wanted_kinds(request)
        return JSONResponse(await self._turn(self._next, rater, kinds))

    async def save(self, request: Request) -> Response:
        rater = self._security.rater(request)
        self._security.check_csrf(request)
        label = _label(_object(await request.body()), rater)
        kinds = wanted_kinds(request) if "next" in request.query_params else None
        return JSONResponse(await self._turn.first(self._save, label, kinds))

    async def undo(self, request: Request) -> Response:
        rater = self._security.rater(request)
        self._security.check_csrf(request)
        wanted = _object(await request.body()).get("label")
        if wanted is not None and not isinstance(wanted, str):
            raise HTTPException(400, "`label` must be the id of a label, or null for the newest")
        undone = await self._turn.first(self._store.undo, rater, wanted)
        return JSONResponse({"undone": None if undone is None else undone.id})

    async def release(self, request: Request) -> Response:
        rater = self._security.rater(request)
        self._security.check_csrf(request)
        await self._turn.first(self._store.release, rater)
        return JSONResponse({"released": True})

    async def progress(self, request: Request) -> Response:
        rater = self._security.rater(request)
        return JSONResponse(progress_fields(await self._turn(self._store.progress, rater)))

    def _next(self, rater: str, kinds: tuple[str, ...]) -> dict[str, Any]:
        assignment, standing = self._store.next_with_standing(rater, kinds=kinds)
        return {"assignment": blind_assignment(assignment), "progress": progress_fields(standing.progress)}

    def _save(self, label: Label, kinds: tuple[str, ...] | None) -> dict[str, Any]:
        saved = self._store.save_label(label)
        answer = {"number": saved.label.number, "new": saved.new}
        if kinds is not None:
            answer["next"] = self._next(label.rater, kinds)
        return answer


def label_error(error: DataError) -> JSONResponse:
    """A label or a request that cannot be taken: 409 where it contradicts what is there, else 400."""
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, LabelConflict) else 400)


def wanted_kinds(request: Request) -> tuple[str, ...]:
    """What a rater wants to do, from the query; all kinds where it says nothing.

    Raises:
        HTTPException: 400 where a kind is unknown.
    """
    text = request.query_params.get("kinds", "")
    kinds = tuple(kind for kind in text.split(",") if kind) or KINDS
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise HTTPException(400, f"`kinds` may be {', '.join(KINDS)}, separated by commas")
    return kinds


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return parse_body(raw)
    except ApiError as error:
        raise HTTPException(400, str(error)) from error


def _label(body: dict[str, Any], rater: str) -> Label:
    """A label from its JSON; the store checks what it says."""
    order, seconds = body.get("order") or [], body.get("seconds", 0.0)
    skipped, payload = body.get("skipped"), body.get("payload") or {}
    if not isinstance(order, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in order):
        raise HTTPException(400, "`order` must be a list of answer numbers")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise HTTPException(400, "`seconds` must be a number")
    if not isinstance(payload, dict) or not isinstance(skipped, str | None):
        raise HTTPException(400, "`payload` must be an object, `skipped` a text or null")
    return Label(
        id=body.get("id", ""),
        item=body.get("item", ""),
        rater=rater,
        payload=payload,
        seconds=float(seconds),
        order=tuple(order),
        skipped=skipped,
    )


def progress_fields(progress: Progress) -> dict[str, int]:
    """How far a rater has come, as JSON."""
    return {"labelled": progress.labelled, "skipped": progress.skipped, "remaining": progress.remaining}
