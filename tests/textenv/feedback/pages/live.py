"""A server for the browser: in a thread, or as a process that can be killed and started again at the same address.

``python -m tests.textenv.feedback.pages.live DATABASE PORT`` is that process.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import uvicorn

from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.guard import RateLimits
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore

KEY = b"k" * 64
ROOT = Path(__file__).resolve().parents[4]
_PATIENCE = 30.0


def make_server(store: FeedbackStore, security: Security | None = None) -> uvicorn.Server:
    config = AppConfig(rates=RateLimits(labelling=100_000))
    security = security or Security(KEY)
    app = build_app(store, {}, security, config)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


@contextmanager
def serving(store: FeedbackStore, security: Security | None = None) -> Iterator[str]:
    """The address of a server in a thread."""
    server = make_server(store, security)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(f"http://127.0.0.1:{port}")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(10)


class ServerProcess:
    """A server that can die."""

    def __init__(self, database: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", __name__, str(database), str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=ROOT)
        wait_for(self.address)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def wait_for(address: str) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.03)


if __name__ == "__main__":
    with FeedbackStore(sys.argv[1], gold_share=0.0) as database, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", int(sys.argv[2])))
        make_server(database).run(sockets=[listening])
