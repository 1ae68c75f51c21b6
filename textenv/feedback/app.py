"""The application: the API, the labelling pages, the dashboard, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from textenv.errors import ConfigError, DataError
from textenv.feedback.pages import dashboard_routes, labelling_routes
from textenv.feedback.server.admin_api import admin_routes
from textenv.feedback.server.guard import Guard, RateLimits
from textenv.feedback.server.hosting import PolicyHost, Watcher
from textenv.feedback.server.label_api import label_error, label_routes
from textenv.feedback.server.openai_api import openai_routes
from textenv.feedback.server.openai_requests import ApiError, ApiLimits
from textenv.feedback.server.score_api import Scorer, score_routes
from textenv.feedback.server.security import Security
from textenv.feedback.server.selecting import Selection
from textenv.feedback.server.signin import signin_redirect, signin_routes
from textenv.feedback.server.turns import Turns
from textenv.feedback.store import FeedbackStore

_JSON = ("/api/", "/admin/")
_HIDDEN = "The server had an error; its log says more."


@dataclass(frozen=True)
class AppConfig:
    """How the application behaves.

    Attributes:
        api: Limits of one request to the API.
        rates: Requests per minute.
        max_body_bytes: Largest body of a request.
        allowed_hosts: Names that this server may be called by; empty allows all.
        poll_seconds: Between two looks for newer policy versions; 0 never looks.
    """

    api: ApiLimits = field(default_factory=ApiLimits)
    rates: RateLimits = field(default_factory=RateLimits)
    max_body_bytes: int = 1_000_000
    allowed_hosts: tuple[str, ...] = ()
    poll_seconds: float = 2.0


def build_app(
    store: FeedbackStore,
    hosts: Mapping[str, PolicyHost],
    security: Security,
    config: AppConfig | None = None,
    selection: Selection | None = None,
    rewards: Mapping[str, Scorer] | None = None,
) -> ASGIApp:
    """The application.

    Args:
        store: Of all that is asked and said.
        hosts: The policies by name; may be empty.
        security: Checks who asks.
        config: How it behaves.
        selection: Keeps the queue in order; None leaves it at random.
        rewards: Reward models that serve others, by name.
    """
    config = config or AppConfig()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watcher = Watcher(list(hosts.values()), config.poll_seconds) if hosts and config.poll_seconds > 0 else None
        if selection is not None:
            selection.start()
        yield
        if selection is not None:
            selection.close()
        if watcher is not None:
            watcher.close()

    turns = Turns()
    routes = [
        Route("/", _home),
        Route("/health", _health),
        *openai_routes(hosts, store, config.api, security),
        *score_routes(rewards or {}, config.api, security),
        *label_routes(store, security, turns),
        *admin_routes(store, hosts, security, selection),
        *signin_routes(security),
        *labelling_routes(store, security, turns),
        *dashboard_routes(store, security),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        max_body_size=config.max_body_bytes,
        exception_handlers=dict.fromkeys((HTTPException, ApiError, DataError, ConfigError, Exception), _failed),
    )
    return Guard(app, config.allowed_hosts, config.rates, lambda request: _rater(security, request))


async def _home(request: Request) -> Response:
    return RedirectResponse("/label", status_code=303)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _failed(request: Request, error: Exception) -> Response:
    """An error as an answer: in OpenAI's form for the API, as JSON for programs, as text for people."""
    path = request.url.path
    if path.startswith("/v1/"):
        found = _api_error(error)
        return JSONResponse(found.body, found.status, _headers(error))
    if isinstance(error, DataError) and not isinstance(error, HTTPException):
        return label_error(error)
    status = error.status_code if isinstance(error, HTTPException) else 400 if isinstance(error, ConfigError) else 500
    message = error.detail if isinstance(error, HTTPException) else str(error) if status == 400 else _HIDDEN
    if status == 401 and "text/html" in request.headers.get("accept", ""):
        return signin_redirect(request)
    if path.startswith(_JSON):
        return JSONResponse({"error": message}, status, _headers(error))
    return PlainTextResponse(message, status, _headers(error))


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        code = "invalid_api_key" if error.status_code == 401 else None
        return ApiError(error.detail, status=error.status_code, code=code)
    if isinstance(error, ConfigError | DataError):
        return ApiError(str(error))
    return ApiError(_HIDDEN, status=500, kind="server_error")


def _headers(error: Exception) -> dict[str, str]:
    given = error.headers if isinstance(error, HTTPException) else None
    return dict(given or {})


def _rater(security: Security, request: Request) -> str | None:
    """The rater who asks, where they have shown a valid link."""
    try:
        return security.rater(request)
    except HTTPException:
        return None
