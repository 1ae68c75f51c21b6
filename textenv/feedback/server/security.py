"""Who may do what: the access token, signed links and sessions of raters, CSRF tokens, and the headers of every page.

Everything that is signed is signed with one key, made once and kept beside the database in a file that only its owner
can read. A rater's link holds their name and when it ends; opening it makes a session cookie. Forms and scripts send a
token back that only a page of ours can know.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from textenv.errors import ConfigError

SESSION_COOKIE = "textenv_rater"
ADMIN_COOKIE = "textenv_admin"
MIN_TOKEN = 16
"""Characters that an access token must have."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""Sent with every answer; no script, style or event handler inside a page is ever run."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host in _LOOPBACK or host.startswith("127.")


def check_address(host: str, token: str) -> None:
    """Refuse to listen where others can reach without a token.

    Raises:
        ConfigError: If the address is not loopback and there is no token, or the token is too short.
    """
    if token and len(token) < MIN_TOKEN:
        raise ConfigError(f"`token` must have at least {MIN_TOKEN} characters, got {len(token)}; try: {new_token()}")
    if not token and not is_loopback(host):
        raise ConfigError(
            f"`host` {host} can be reached from other machines, which needs a `token`: --token {new_token()}, or the "
            "environment variable TEXTENV_TOKEN"
        )


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def load_key(path: str | Path) -> bytes:
    """The signing key in a file; made where there is none.

    Raises:
        ConfigError: If the file holds no key.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_text("ascii").strip()
        if len(key) < 64:
            raise ConfigError(f"`{path}` holds no signing key; delete it to get a new one (links end)") from None
        return key.encode()
    key = secrets.token_hex(32)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key.encode()


@dataclass(frozen=True)
class Security:
    """Checks requests.

    Attributes:
        key: Signs links and sessions.
        token: Opens the API, the dashboard and the administration; empty leaves them open (loopback only).
        clock: Unix seconds.
    """

    key: bytes
    token: str = ""
    clock: Callable[[], float] = time.time

    # --- raters -------------------------------------------------------------------------------------------------------

    def credential(self, rater: str, *, seconds: float = 30 * 86400) -> str:
        """Proves who somebody is, for so long: ``expires.signature.name``."""
        expires = int(self.clock() + seconds)
        return f"{expires}.{self._sign('rater', str(expires), rater)}.{rater}"

    def rater_link(self, rater: str, *, seconds: float = 30 * 86400) -> str:
        """Path and query of a rater's link."""
        expires, signature, _ = self.credential(rater, seconds=seconds).split(".", 2)
        return "/label/enter?" + urlencode({"rater": rater, "expires": expires, "signature": signature})

    def rater(self, request: Request) -> str:
        """The rater who asks, by session cookie or by bearer credential.

        Raises:
            HTTPException: 403 where there is no credential, or it is forged or has ended.
        """
        return self._verified(self._session(request))

    def enter(self, request: Request) -> Response:
        """Open a rater's link: make the session, go on to the labelling page.

        Where there is no token (loopback only), the name alone is enough: who can reach the page owns the machine.

        Raises:
            HTTPException: 403 where the link is forged or has ended.
        """
        query = request.query_params
        rater = query.get("rater", "")
        if "signature" not in query and not self.token and rater:
            credential = self.credential(rater)
        else:
            credential = f"{query.get('expires', '')}.{query.get('signature', '')}.{rater}"
        self._verified(credential)
        seconds = int(credential.split(".", 1)[0]) - int(self.clock())
        response = RedirectResponse("/label", status_code=303)
        self._set_cookie(request, response, SESSION_COOKIE, _to_cookie(credential), seconds)
        return response

    def _verified(self, credential: str) -> str:
        expires, _, rest = credential.partition(".")
        signature, _, rater = rest.partition(".")
        if not rater or not expires.isdecimal():
            _refuse("open your own link to label: it tells who you are")
        if not hmac.compare_digest(signature.encode(), self._sign("rater", expires, rater).encode()):
            _refuse("this link is not genuine; ask for a new one")
        if int(expires) < self.clock():
            _refuse("this link has ended; ask for a new one")
        return rater

    # --- CSRF ---------------------------------------------------------------------------------------------------------

    def csrf_token(self, request: Request) -> str:
        """What forms and scripts of this session's pages send back, as field ``csrf`` or header ``X-CSRF-Token``."""
        return self._sign("csrf", self._session(request) or request.cookies.get(ADMIN_COOKIE, ""))

    def check_csrf(self, request: Request, token: str | None = None) -> None:
        """Refuse what a page of ours did not send; requests without cookies cannot be forged and pass.

        Args:
            request: That changes something.
            token: The form's field; None takes the header.

        Raises:
            HTTPException: 403.
        """
        if SESSION_COOKIE not in request.cookies and ADMIN_COOKIE not in request.cookies:
            return
        given = token if token is not None else request.headers.get("x-csrf-token", "")
        if not hmac.compare_digest(given.encode(), self.csrf_token(request).encode()):
            _refuse("the form's token is missing or old; load the page again")

    # --- administration -----------------------------------------------------------------------------------------------

    def require_token(self, request: Request) -> None:
        """Let through who has the access token, as bearer or (pages) as cookie; everybody where there is none.

        Raises:
            HTTPException: 401.
        """
        if self.token and not self.has_token(request):
            raise HTTPException(401, "the access token is missing or wrong", {"www-authenticate": "Bearer"})

    require_admin = require_token

    def has_token(self, request: Request) -> bool:
        """Whether a request has the access token."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        cookie = request.cookies.get(ADMIN_COOKIE, "")
        right = hmac.compare_digest(bearer.encode(), self.token.encode())
        return right or hmac.compare_digest(cookie.encode(), self._sign("admin", self.token).encode())

    def admin_session(self, request: Request, token: str, target: str = "/dashboard") -> Response:
        """Turn the access token into a session, for pages.

        Raises:
            HTTPException: 401 where the token is wrong.
        """
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise HTTPException(401, "the access token is wrong")
        response = RedirectResponse(target, status_code=303)
        self._set_cookie(request, response, ADMIN_COOKIE, self._sign("admin", self.token), 12 * 3600)
        return response

    # --- inside -------------------------------------------------------------------------------------------------------

    def _session(self, request: Request) -> str:
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:
            return _from_cookie(cookie)
        return request.headers.get("authorization", "").removeprefix("Bearer ").strip()

    def _sign(self, *parts: str) -> str:
        message = "\x1f".join(f"{len(part)}:{part}" for part in parts).encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()

    def _set_cookie(self, request: Request, response: Response, name: str, value: str, seconds: int) -> None:
        # Lax, not strict: a rater comes from a link in a mail, and strict cookies are not sent on the way from there.
        response.set_cookie(
            name,
            value,
            max_age=max(0, seconds),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )


def same_origin(request: Request) -> bool:
    """Whether a browser says that a page of ours sent this; True where no browser did."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        return False
    # Our pages send no referrer, and so the origin of their forms is "null"; the browser still says whose they are.
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    return own or (origin == "null" and site == "same-origin")


def _to_cookie(value: str) -> str:
    """A value in the characters that cookies may have."""
    return value.encode().hex()


def _from_cookie(value: str) -> str:
    try:
        return bytes.fromhex(value).decode()
    except ValueError:
        return ""


def _refuse(reason: str) -> NoReturn:
    raise HTTPException(403, reason)
