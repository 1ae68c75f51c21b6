"""The labelling page: its HTML, its scripts and styles, and what it asks the server for.

Labels are saved and taken back through the JSON interface that other programs use too (``/api/labels``, ``/api/undo``);
what the page needs beyond it is the instructions as a tree, and which label an undo would take back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from textenv.feedback.pages.guide import DEFAULTS, guide
from textenv.feedback.server.label_api import blind_assignment, progress_fields, wanted_kinds
from textenv.feedback.server.security import Security
from textenv.feedback.server.turns import Turns
from textenv.feedback.store import Assignment, FeedbackStore, Label
from textenv.pages.page import render

STATIC = Path(__file__).parent / "static"
"""Scripts and styles of these pages; those of the page kit are served beside them."""


def labelling_routes(store: FeedbackStore, security: Security, turns: Turns) -> list[BaseRoute]:
    """Routes of the labelling page, and ``/static`` for all pages.

    Args:
        store: Of what is asked and said.
        security: Says who asks, and makes the token that the page's scripts send back.
        turns: Work on the store is done here.
    """
    page = _Labelling(store, security, turns)
    return [
        Route("/label", page.show, methods=["GET"]),
        Route("/label/next", page.next, methods=["GET"]),
        Mount("/static", StaticFiles(directory=STATIC, packages=[("textenv.pages", "static")]), name="static"),
    ]


class _Labelling:
    def __init__(self, store: FeedbackStore, security: Security, turns: Turns) -> None:
        self._store = store
        self._security = security
        self._turn = turns

    def show(self, request: Request) -> Response:
        rater = self._security.rater(request)
        csrf = self._security.csrf_token(request)
        return HTMLResponse(render("textenv.feedback.pages", "label.html", rater=rater, csrf=csrf))

    async def next(self, request: Request) -> Response:
        rater, kinds = self._security.rater(request), wanted_kinds(request)
        return JSONResponse(await self._turn(self._next, rater, kinds))

    def _next(self, rater: str, kinds: Sequence[str]) -> dict[str, Any]:
        assignment, (progress, newest) = self._store.next_with_standing(rater, kinds=kinds)
        return {
            "assignment": None if assignment is None else shown(assignment),
            "progress": progress_fields(progress),
            "last": newest and _last(newest),
        }


def shown(assignment: Assignment) -> dict[str, Any]:
    """An assignment as the page shows it: blind, with the instructions as a tree."""
    found = blind_assignment(assignment)
    assert found is not None
    found["guide"] = _tree(assignment.item.instructions or DEFAULTS[assignment.item.kind])
    return found


def _last(label: Label) -> dict[str, Any]:
    """The label or skip that an undo would take back, as the page needs it."""
    return {"id": label.id, "item": label.item, "payload": dict(label.payload), "skipped": label.skipped}


@lru_cache(maxsize=64)
def _tree(instructions: str) -> list[Any]:
    """Instructions as a tree; most items share theirs, and nobody changes it."""
    return guide(instructions)
