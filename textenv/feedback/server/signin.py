"""The page where the access token becomes a session, for people who open the dashboard in a browser."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from textenv.feedback.server.security import Security
from textenv.pages.page import render


def signin_routes(security: Security) -> list[Route]:
    """The form and what it sends."""

    async def show(request: Request) -> Response:
        return _page("For the dashboard and the administration.", request.query_params.get("next", ""))

    async def sign_in(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode(errors="replace"))
        token, target = fields.get("token", [""])[0], _own(fields.get("next", [""])[0])
        try:
            return security.admin_session(request, token, target)
        except HTTPException as error:
            return _page(str(error.detail), target, error.status_code)

    return [Route("/signin", show, methods=["GET"]), Route("/signin", sign_in, methods=["POST"])]


def signin_redirect(request: Request) -> Response:
    """To the form, and back to the page afterwards."""
    return RedirectResponse("/signin?" + urlencode({"next": request.url.path}), status_code=303)


def _page(message: str, target: str, status: int = 200) -> Response:
    tone = "soft" if status == 200 else "wrong"
    page = render("textenv.feedback.pages", "signin.html", message=message, target=_own(target), tone=tone)
    return HTMLResponse(page, status)


def _own(target: str) -> str:
    """A path of this server; whoever made the link, nobody is sent elsewhere."""
    is_path = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if is_path else "/dashboard"
