"""What stands before the application: host names, origins, rates, and the security headers of every answer.

A browser on this machine can be made to send requests here by any page that it shows. So requests must name this server
as host (no DNS rebinding), and those that change something must not come from a foreign page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textenv.feedback.server.security import HEADERS, same_origin

_KEPT = 10_000


@dataclass(frozen=True)
class RateLimits:
    """Requests per minute; a fourth of it may come at once.

    Attributes:
        api: Of one address to ``/v1`` and ``/admin``.
        labelling: Of one rater, or of one address that has shown no valid link.
    """

    api: int = 1200
    labelling: int = 600


class RateLimiter:
    """Token buckets, one per client and limit.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def wait(self, kind: str, client: str, per_minute: int) -> float:
        """Seconds until a request is allowed; 0 allows it, and counts it."""
        now, rate = self._clock(), per_minute / 60
        room = max(1.0, per_minute / 4)
        level, seen = self._buckets.get((kind, client), (room, now))
        level = min(room, level + (now - seen) * rate)
        if level < 1:
            return (1 - level) / rate
        if len(self._buckets) >= _KEPT:
            self._forget(now)
        self._buckets[kind, client] = (level - 1, now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Drop clients that have been quiet for a minute; all where none were: memory stays bounded."""
        self._buckets = {key: held for key, held in self._buckets.items() if now - held[1] < 60}
        if len(self._buckets) >= _KEPT:
            self._buckets.clear()


class Guard:
    """Refuses what must not get through, and puts the security headers on all answers.

    Args:
        app: What it guards.
        hosts: Names that this server may be called by, without ports; empty allows all.
        rates: Limits.
        rater: Name of a rater who has shown a valid link, else None.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], rates: RateLimits, rater: Callable[[Request], str | None]
    ) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._rates = rates
        self._rater = rater
        self._limiter = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refusal = self._refusal(Request(scope))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> JSONResponse | None:
        path = request.url.path
        api = path.startswith(("/v1/", "/admin/"))
        if self._hosts and _name(request.headers.get("host", "")) not in self._hosts:
            return _error(api, 421, "this server has another name; see `allowed_hosts`", "invalid_request_error")
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            if not same_origin(request):
                return _error(api, 403, "requests from other sites' pages are refused", "invalid_request_error")
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if path.startswith(("/v1/", "/admin/", "/api/")) and kind != "application/json":
                # What a foreign form can send without asking the browser first is never this type.
                return _error(api, 415, "the content type must be application/json", "invalid_request_error")
        address = request.client.host if request.client else ""
        client, limit = (address, self._rates.api) if api else (self._rater(request) or address, self._rates.labelling)
        wait = self._limiter.wait("api" if api else "labelling", client, limit)
        if wait > 0:
            refused = _error(api, 429, f"too many requests; wait {wait:.1f} seconds", "rate_limit_error")
            refused.headers["retry-after"] = str(int(wait) + 1)
            return refused
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host


def _error(api: bool, status: int, message: str, kind: str) -> JSONResponse:
    content = {"message": message, "type": kind, "param": None, "code": None} if api else message
    return JSONResponse({"error": content}, status)
