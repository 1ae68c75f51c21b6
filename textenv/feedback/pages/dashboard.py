"""The dashboard: its page, and the figures that the page asks for again and again.

Both need the access token, as all of ``/admin`` does: figures name policies and raters, which raters must not see.
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.pages.labelling import STATIC
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore


def dashboard_routes(store: FeedbackStore, security: Security) -> list[Route]:
    """The page ``/dashboard`` and its figures, ``/admin/dashboard``.

    Args:
        store: Of what is asked and said.
        security: Says who asks, and what time it is.
    """
    dashboard = Dashboard(store.database, security.clock)
    page = (STATIC / "dashboard.html").read_text("utf-8")

    async def show(request: Request) -> Response:
        security.require_token(request)
        return HTMLResponse(page)

    async def figures(request: Request) -> Response:
        security.require_token(request)
        return JSONResponse(await run_in_threadpool(dashboard.figures))

    return [Route("/dashboard", show, methods=["GET"]), Route("/admin/dashboard", figures, methods=["GET"])]
