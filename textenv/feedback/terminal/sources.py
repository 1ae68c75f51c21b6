"""Where a terminal session gets items from and brings labels to: the database, or a running server."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn, Protocol
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from sqlalchemy.exc import DBAPIError

from textenv.errors import ConfigError, DataError, TextEnvError
from textenv.feedback.server.label_api import blind_assignment
from textenv.feedback.server.security import is_loopback
from textenv.feedback.store import FeedbackStore, Label, Progress, Scale


class SourceError(TextEnvError, RuntimeError):
    """The database or the server did not do it this time; the same may work later."""


@dataclass(frozen=True)
class Shown:
    """An item as its rater may see it: answers in their order, without where they come from.

    Attributes:
        id: Of the item.
        kind: What is asked.
        prompt: The prompt.
        messages: The chat, where it is one.
        instructions: Markdown; empty takes the usual one of its kind.
        scale: For ratings.
        answers: Texts in the order in which they are shown.
        order: The item's own number of each.
    """

    id: str
    kind: str
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    instructions: str
    scale: Scale | None
    answers: tuple[str, ...]
    order: tuple[int, ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Shown:
        """An item as the labelling API sends it.

        Raises:
            SourceError: If it is none.
        """
        try:
            scale = found["scale"]
            if scale is not None:
                anchors = {int(number): str(text) for number, text in scale["anchors"].items()}
                scale = Scale(scale["low"], scale["high"], anchors)
            return cls(
                id=found["id"],
                kind=found["kind"],
                prompt=found["prompt"],
                messages=tuple(found["messages"]),
                instructions=found["instructions"],
                scale=scale,
                answers=tuple(answer["text"] for answer in found["answers"]),
                order=tuple(answer["answer"] for answer in found["answers"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(f"the server sent an item that this version cannot read: {error}") from error


class Given(NamedTuple):
    """What there is to do.

    Attributes:
        shown: The item; None where nothing is left.
        progress: Of this rater.
    """

    shown: Shown | None
    progress: Progress


class LabelSource(Protocol):
    """What a session needs; all of them raise `SourceError` where it may work later."""

    @property
    def rater(self) -> str:
        """Who labels."""
        ...

    def next(self, kinds: Sequence[str]) -> Given:
        """The next item, leased to the rater."""
        ...

    def save(self, label: Label) -> None:
        """Keep a label; it is safe when this returns.

        Raises:
            DataError: If it cannot be taken, now or later.
        """
        ...

    def undo(self) -> str | None:
        """Take the newest label back; its id, None where there is none."""
        ...

    def release(self) -> None:
        """Let others have what the rater was given."""
        ...


class StoreSource:
    """The database itself, on this machine or by its URL.

    Args:
        store: Of items and labels.
        rater: Who labels.
    """

    def __init__(self, store: FeedbackStore, rater: str) -> None:
        self._store = store
        self.rater = rater

    def next(self, kinds: Sequence[str]) -> Given:
        """The next item, leased to the rater."""
        try:
            found = blind_assignment(self._store.next_assignment(self.rater, kinds=kinds))
            return Given(None if found is None else Shown.from_json(found), self._store.progress(self.rater))
        except DBAPIError as error:
            _later(error)

    def save(self, label: Label) -> None:
        """Keep a label."""
        try:
            self._store.save_label(label)
        except DBAPIError as error:
            _later(error)

    def undo(self) -> str | None:
        """Take the newest label back."""
        try:
            undone = self._store.undo(self.rater)
        except DBAPIError as error:
            _later(error)
        return None if undone is None else undone.id

    def release(self) -> None:
        """Let others have what the rater was given."""
        try:
            self._store.release(self.rater)
        except DBAPIError as error:
            _later(error)


class ServerSource:
    """A running ``textenv serve``, by a rater's link.

    Args:
        link: As the server gives it out, signed; on loopback without a token ``…/label/enter?rater=NAME`` is enough.
        timeout: Seconds until an answer must have come.

    Raises:
        ConfigError: If the link is none, or the server refuses it.
        SourceError: If the server cannot be reached.
    """

    def __init__(self, link: str, *, timeout: float = 20.0) -> None:
        parts = urlsplit(link)
        if parts.scheme not in ("http", "https") or "rater" not in parse_qs(parts.query):
            raise ConfigError(
                "`--url` must be a rater's link, http://…/label/enter?rater=…, as `textenv serve` shows it"
            )
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
            _NoRedirect(),
        ]
        if is_loopback(parts.hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self._link = link
        self._timeout = timeout
        self._csrf = ""
        try:
            self._enter()
        except DataError as error:
            raise ConfigError(f"the server refuses this link: {error}") from error

    def next(self, kinds: Sequence[str]) -> Given:
        """The next item, leased to the rater."""
        found = self._ask("/api/next?" + urlencode({"kinds": ",".join(kinds)}))
        shown = None if found["assignment"] is None else Shown.from_json(found["assignment"])
        return Given(shown, Progress(**found["progress"]))

    def save(self, label: Label) -> None:
        """Keep a label."""
        body = {"id": label.id, "item": label.item, "payload": dict(label.payload), "seconds": label.seconds}
        self._ask("/api/labels", {**body, "order": list(label.order), "skipped": label.skipped})

    def undo(self) -> str | None:
        """Take the newest label back."""
        return self._ask("/api/undo", {})["undone"]

    def release(self) -> None:
        """Let others have what the rater was given."""
        self._ask("/api/release", {})

    def _enter(self) -> None:
        """Open the link, which makes the session's cookie, and ask who we are."""
        self._ask(self._link)
        session = self._ask("/api/session")
        self.rater, self._csrf = str(session["rater"]), str(session["csrf"])

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """JSON of an answer.

        Raises:
            DataError: If the server refuses.
            SourceError: If it cannot be reached, or has too much to do.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", "X-CSRF-Token": self._csrf}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(urljoin(self._link, path), data, headers)
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SEE_OTHER:  # a link that was accepted leads to the page, which is for browsers
                return None
            told = _told(error)
            if error.code >= 500 or error.code in (408, 421, 425, 429):
                raise SourceError(told) from error
            raise DataError(told) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise SourceError(f"the server cannot be reached: {reason}") from error


def _told(error: urllib.error.HTTPError) -> str:
    """What the server says of a refusal, in one line."""
    text = error.read(2000).decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.strip() or f"the server answered {error.code}"


def _later(error: DBAPIError) -> NoReturn:
    raise SourceError(f"the database did not do it: {error.orig}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None
