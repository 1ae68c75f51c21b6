"""The page where the access token becomes a session, for people who open the dashboard in a browser."""

from __future__ import annotations

from html import escape
from string import Template
from urllib.parse import parse_qs, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from textenv.feedback.server.security import Security

_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/base.css">
<link rel="stylesheet" href="/static/signin.css">
</head>
<body>
<main class="card">
<h1>Sign in</h1>
<p class="$tone">$message</p>
<form method="post" action="/signin">
<input type="hidden" name="next" value="$target">
<label for="token">Access token</label>
<input id="token" type="password" name="token" autocomplete="current-password" required autofocus>
<button class="primary">Sign in</button>
</form>
<p class="soft">To label, open the link that you were given; it needs no token.</p>
</main>
</body>
</html>
"""
)


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
    fields = {"message": escape(message), "target": escape(_own(target)), "tone": "soft" if status == 200 else "wrong"}
    return HTMLResponse(_PAGE.substitute(fields), status)


def _own(target: str) -> str:
    """A path of this server; whoever made the link, nobody is sent elsewhere."""
    is_path = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if is_path else "/dashboard"
