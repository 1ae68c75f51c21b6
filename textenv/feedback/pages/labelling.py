"""The labelling page: its HTML, its scripts and styles, and what it asks the server for.

Labels are saved and taken back through the JSON interface that other programs use too (``/api/labels``, ``/api/undo``);
what the page needs beyond it is the instructions as a tree, and which label an undo would take back.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from textenv.feedback.pages.guide import DEFAULTS, guide
from textenv.feedback.server.label_api import blind_assignment
from textenv.feedback.server.security import Security
from textenv.feedback.store import KINDS, Assignment, FeedbackStore
from textenv.feedback.store.schema import labels

STATIC = Path(__file__).parent / "static"
"""Scripts and styles of all pages."""


def labelling_routes(store: FeedbackStore, security: Security) -> list[BaseRoute]:
    """Routes of the labelling page, and ``/static`` for all pages.

    Args:
        store: Of what is asked and said.
        security: Says who asks, and makes the token that the page's scripts send back.
    """
    page = _Labelling(store, security)
    return [
        Route("/label", page.show, methods=["GET"]),
        Route("/label/next", page.next, methods=["GET"]),
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]


class _Labelling:
    def __init__(self, store: FeedbackStore, security: Security) -> None:
        self._store = store
        self._security = security
        self._page = Template((STATIC / "label.html").read_text("utf-8"))

    def show(self, request: Request) -> Response:
        rater = self._security.rater(request)
        csrf = self._security.csrf_token(request)
        return HTMLResponse(self._page.substitute(rater=escape(rater), csrf=escape(csrf)))

    def next(self, request: Request) -> Response:
        rater = self._security.rater(request)
        kinds = tuple(kind for kind in request.query_params.get("kinds", "").split(",") if kind) or KINDS
        if set(kinds) - set(KINDS):
            raise HTTPException(400, f"`kinds` may be {', '.join(KINDS)}, separated by commas")
        assignment = self._store.next_assignment(rater, kinds=kinds)
        progress = self._store.progress(rater)
        answer = {
            "assignment": None if assignment is None else shown(assignment),
            "progress": {
                "labelled": progress.labelled,
                "skipped": progress.skipped,
                "remaining": progress.remaining,
            },
            "last": newest_label(self._store, rater),
        }
        return JSONResponse(answer)


def shown(assignment: Assignment) -> dict[str, Any]:
    """An assignment as the page shows it: blind, with the instructions as a tree."""
    found = blind_assignment(assignment)
    assert found is not None
    found["guide"] = guide(assignment.item.instructions or DEFAULTS[assignment.item.kind])
    return found


def newest_label(store: FeedbackStore, rater: str) -> dict[str, Any] | None:
    """The rater's newest label or skip that stands, which is what an undo takes back."""
    query = (
        sa.select(labels.c.id, labels.c.item, labels.c.payload, labels.c.skipped)
        .where(labels.c.rater == rater, labels.c.undone.is_(None))
        .order_by(labels.c.number.desc())
        .limit(1)
    )
    with store.database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    return {"id": row.id, "item": row.item, "payload": json.loads(row.payload), "skipped": row.skipped}
