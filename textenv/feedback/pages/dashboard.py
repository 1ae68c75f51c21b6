"""The dashboard: its page, the parts of it that are shown anew again and again, and its figures.

All need the access token, as all of ``/admin`` does: figures name policies and raters, which raters must not see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore
from textenv.pages.charts import Axis, columns
from textenv.pages.page import render

_PACKAGE = "textenv.feedback.pages"
_DAY = 86400
_AXES = {
    "shares": Axis(0, 1, ((0, "0 %"), (0.5, "50 %"), (1, "100 %"))),
    "alphas": Axis(0, 1, ((0, "0.00"), (0.5, "0.50"), (1, "1.00"))),
    "ceilings": Axis(0.5, 1, ((0.5, "50 %"), (0.75, "75 %"), (1, "100 %"))),
}


def dashboard_routes(store: FeedbackStore, security: Security) -> list[Route]:
    """The page ``/dashboard``, its parts ``/dashboard/parts``, and the figures as JSON, ``/admin/dashboard``.

    Args:
        store: Of what is asked and said.
        security: Says who asks, and what time it is.
    """
    dashboard = Dashboard(store.database, security.clock)

    def show(request: Request) -> Response:
        security.require_token(request)
        return HTMLResponse(render(_PACKAGE, "dashboard.html"))

    def parts(request: Request) -> Response:
        security.require_token(request)
        behind = re.fullmatch(r"-?\d{1,4}", request.query_params.get("minutes_behind", ""), re.ASCII)
        return HTMLResponse(dashboard_parts(dashboard.figures(), int(behind[0]) if behind else 0))

    async def figures(request: Request) -> Response:
        security.require_token(request)
        return JSONResponse(await run_in_threadpool(dashboard.figures))

    paths = {"/dashboard": show, "/dashboard/parts": parts, "/admin/dashboard": figures}
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in paths.items()]


def dashboard_parts(figures: Mapping[str, Any], minutes_behind: int = 0) -> str:
    """The parts of the page, an element each.

    Args:
        figures: What `Dashboard.figures` gives.
        minutes_behind: How far the reader's clock is behind UTC.
    """
    zone = timezone(timedelta(minutes=max(-1439, min(1439, -minutes_behind))))
    pace = _pace(figures["pace"], zone) if figures.get("labels") and figures["pace"]["labels"] else None
    now = datetime.fromtimestamp(figures["now"], zone) if "now" in figures else None
    return render(_PACKAGE, "dashboard_parts.html", data=figures, pace=pace, now=now, **_AXES)


def _pace(pace: Mapping[str, Any], zone: timezone) -> Markup:
    """Bars of labels per hour."""
    width, last = pace["width"], len(pace["labels"]) - 1
    begins = [datetime.fromtimestamp(seconds, zone) for seconds in pace["begins"]]
    whens = [_when(begin, width) for begin in begins]
    tips = [
        f"{when}: {labels:,.0f} labels{', still running' if place == last else ''}"
        for place, (when, labels) in enumerate(zip(whens, pace["labels"], strict=True))
    ]
    words = f"Labels per hour from {whens[0]} to now, at most {max(pace['per_hour']):,.0f}"
    marks = _marks(begins, width)
    return columns(pace["per_hour"], tips, marks, unit="per hour", description=words, last_open=True)


def _marks(begins: list[datetime], width: float) -> list[tuple[float, str]]:
    """Some six bars that get their time written below; of several days the bars where each day begins."""
    marks: list[tuple[float, str]]
    if width >= _DAY:
        marks = [(place + 0.5, f"{begin.day} {begin:%b}") for place, begin in enumerate(begins)]
    elif len(begins) * width > 1.5 * _DAY:
        marks = [(p, _day(b)) for p, b in enumerate(begins) if p and b.day != begins[p - 1].day]
    else:
        marks = [(place, f"{begin:%H:%M}") for place, begin in enumerate(begins)]
    return marks[:: max(1, -(-len(marks) // 6))]


def _day(begin: datetime) -> str:
    return f"{begin:%a} {begin.day} {begin:%b}"


def _when(begin: datetime, width: float) -> str:
    """The time that a bar stands for."""
    if width < _DAY:
        return f"{_day(begin)}, {begin:%H:%M}–{begin + timedelta(seconds=width):%H:%M}"
    return _day(begin) if width == _DAY else f"{_day(begin)} and {round(width / _DAY) - 1} days after"
