"""A tiny policy that is served: in memory for most tests, behind a socket for the OpenAI client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from agents.policy import CausalLMPolicy
from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.hosting import EngineLimits, PolicyHost
from textenv.feedback.server.openai_requests import ApiLimits
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore

TOKEN = "a-token-of-the-tests"
LIMITS = EngineLimits(num_slots=4, max_length=96, max_waiting=8)


def load(folder: str) -> CausalLMPolicy:
    return CausalLMPolicy.from_pretrained(folder)


@pytest.fixture
def host(policy_folder: Path, store: FeedbackStore) -> Iterator[PolicyHost]:
    made = PolicyHost(policy_folder, load, store, limits=LIMITS)
    yield made
    made.close()


@pytest.fixture
def security() -> Security:
    return Security(b"k" * 64)


@pytest.fixture
def guarded(clock: Callable[[], float]) -> Security:
    return Security(b"k" * 64, TOKEN, clock)


@pytest.fixture
def people(make_client: Callable[..., TestClient], guarded: Security) -> TestClient:
    """A server with a token, and nobody signed in."""
    return make_client(guarded)


@pytest.fixture
def make_client(store: FeedbackStore) -> Iterator[Callable[..., TestClient]]:
    """Clients of applications on the store."""
    opened: list[TestClient] = []

    def make(security: Security, hosts: Any = (), **config: Any) -> TestClient:
        selection = config.pop("selection", None)
        config = {"poll_seconds": 0.0, "api": ApiLimits(max_new_tokens=24), **config}
        app = build_app(store, {each.name: each for each in hosts}, security, AppConfig(**config), selection)
        client = TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1:8000")
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: Callable[..., TestClient], security: Security, host: PolicyHost) -> TestClient:
    return make_client(security, [host])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An application behind a socket; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
