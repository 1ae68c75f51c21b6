"""One POST of JSON with a deadline that holds, whatever the other side does."""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that another attempt may cure."""


class HttpFailure(Exception):
    """A request that brought no usable scores.

    Args:
        message: What happened.
        again: Whether another attempt makes sense.
        retry_after: Seconds that the server asked to wait.
        partial: Scores of which only some are unusable (NaN), where the reply was well-formed otherwise.
    """

    def __init__(
        self,
        message: str,
        *,
        again: bool = True,
        retry_after: float = 0.0,
        partial: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(message)
        self.again, self.retry_after, self.partial = again, retry_after, partial


def post_json(url: str, record: Any, headers: Mapping[str, str], *, timeout: float, most_bytes: int) -> Any:
    """The JSON that an endpoint answers.

    Args:
        url: http or https.
        record: Sent as JSON.
        headers: Sent beside the content type.
        timeout: Seconds from here to the last byte of the reply.
        most_bytes: Longer replies are a failure.

    Raises:
        HttpFailure: If no JSON comes in time.
    """
    exchange = _Exchange(url, record, headers, timeout, most_bytes)
    # A socket's own timeout is for each operation: a trickle of bytes, of header lines or of name servers would never
    # end. So the exchange runs beside, and whoever is late is cut off.
    thread = threading.Thread(target=exchange.run, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        exchange.cut()
        raise HttpFailure(f"no complete reply within {timeout:g} s")
    if exchange.failure is not None:
        raise exchange.failure
    if exchange.status != 200:
        text = exchange.data[:120].decode("utf-8", "replace")
        again = exchange.status in _PASSING
        raise HttpFailure(
            f"HTTP status {exchange.status} ({text!r})", again=again, retry_after=_seconds(exchange.retry_after)
        )
    try:
        return json.loads(exchange.data)
    except (ValueError, RecursionError) as error:
        raise HttpFailure(f"the reply is not JSON: {exchange.data[:80]!r}") from error


class _Exchange:
    """One request and its reply; `run` never raises."""

    def __init__(self, url: str, record: Any, headers: Mapping[str, str], timeout: float, most_bytes: int) -> None:
        self._url, self._record, self._headers = url, record, headers
        self._timeout, self._most_bytes = timeout, most_bytes
        self._socket: socket.socket | None = None
        self.failure: HttpFailure | None = None
        self.status, self.data = 0, b""
        self.retry_after: str | None = None

    def run(self) -> None:
        """Fill in status and data, or the failure."""
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            connection = kind(parts.hostname or "", parts.port, timeout=self._timeout)
            body = json.dumps(self._record).encode("ascii")
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            try:
                connection.connect()
                self._socket = connection.sock
                connection.request("POST", target, body, {"Content-Type": "application/json", **self._headers})
                self._read(connection.getresponse())
            finally:
                connection.close()
        except TimeoutError:
            self.failure = HttpFailure(f"no reply within {self._timeout:g} s")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failure = HttpFailure(f"{type(error).__name__}: {error}")

    def cut(self) -> None:
        """End what the connection is waiting for."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it was closed meanwhile, which is what was wanted

    def _read(self, reply: http.client.HTTPResponse) -> None:
        data = reply.read(self._most_bytes + 1)
        if len(data) > self._most_bytes:
            self.failure = HttpFailure(f"the reply is longer than {self._most_bytes} bytes", again=False)
        elif reply.length:
            self.failure = HttpFailure(f"the reply ended {reply.length} bytes early")
        self.status, self.data, self.retry_after = reply.status, data, reply.headers.get("Retry-After")


def _seconds(value: str | None) -> float:
    """A Retry-After header (seconds or a date) in seconds from now; 0 where there is none."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if np.isfinite(seconds) else 0.0
