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
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    deadline = time.monotonic() + timeout
    # The socket's own timeout is for each operation: a trickle of bytes, or of header lines, would never end.
    # Shutting the socket down ends whatever operation is under way.
    expired = threading.Event()
    watchdog = threading.Timer(timeout, _cut, (connection, expired))
    watchdog.daemon = True
    watchdog.start()
    try:
        body = json.dumps(record, ensure_ascii=True).encode("ascii")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        data = reply.read(most_bytes + 1)
        status, retry_after = reply.status, _seconds(reply.headers.get("Retry-After"))
        announced = reply.length  # what Content-Length promised and did not come
    except TimeoutError as error:
        raise HttpFailure(f"no reply within {timeout:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if expired.is_set() or time.monotonic() >= deadline:
            raise HttpFailure(f"no complete reply within {timeout:g} s") from error
        raise HttpFailure(f"{type(error).__name__}: {error}") from error
    finally:
        watchdog.cancel()
        connection.close()
    if expired.is_set():
        raise HttpFailure(f"no complete reply within {timeout:g} s")
    if len(data) > most_bytes:
        raise HttpFailure(f"the reply is longer than {most_bytes} bytes", again=False)
    if announced:
        raise HttpFailure(f"the reply ended {announced} bytes early")
    if status != 200:
        text = data[:120].decode("utf-8", "replace")
        raise HttpFailure(f"HTTP status {status} ({text!r})", again=status in _PASSING, retry_after=retry_after)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HttpFailure(f"the reply is not JSON: {data[:80]!r}") from error


def _cut(connection: http.client.HTTPConnection, expired: threading.Event) -> None:
    """End what the connection is waiting for."""
    expired.set()
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it was closed meanwhile, which is what was wanted


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
