"""The HTTP adapter against a server on this machine that misbehaves in every way that was thought of."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from reward_models.adapters.http import HttpReward
from reward_models.base import RewardModel
from textenv.errors import ConfigError, RewardError, ShapeError

Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `answers` say, one after the other; the last one again and again."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(body)
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        try:
            answer(self, body)
        except OSError:
            self.close_connection = True  # the client had enough

    def reply(self, record: Any, status: int = 200, **headers: str) -> None:
        self.raw(json.dumps(record).encode(), status, **headers)

    def raw(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: list[dict[str, Any]] = []
        self.answers: list[Answer] = [lengths]
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # a client that hangs up is part of the tests


def lengths(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply({"scores": [len(p) + len(r) / 10 for p, r in zip(body["prompts"], body["responses"], strict=True)]})


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()
    thread.join()


def client(server: Server, **options: Any) -> HttpReward:
    quick: dict[str, Any] = {"timeout_seconds": 10.0, "total_seconds": 20.0, "backoff_seconds": 0.001, "attempts": 3}
    return HttpReward(server.url, **(quick | options))


PROMPTS, RESPONSES = ["ab", "c", "äöü"], ["x", "yy" * 5, "\ud83d\ude00"]
EXPECTED = [2.1, 2.0, 3.1]


def stall(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.over.wait(60)


def trickle(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def trickling_headers(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"X-More: yes\r\n")


def cut_short(handler: Handler, body: dict[str, Any]) -> None:
    handler.raw(b'{"scores": [1.0', Content_Length="1000")


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, body: handler.reply({"error": "no"}, code, **headers)


def scores(values: Any) -> Answer:
    return lambda handler, body: handler.reply({"scores": values})


def raw(data: bytes) -> Answer:
    return lambda handler, body: handler.raw(data)


FAILURES: list[Any] = [
    pytest.param(stall, "no (complete )?reply within 0.15 s", id="stall"),
    pytest.param(trickle, "no complete reply within 0.15 s", id="trickle"),
    pytest.param(trickling_headers, "no complete reply within 0.15 s", id="trickling headers"),
    pytest.param(cut_short, "the reply ended 985 bytes early", id="cut short"),
    pytest.param(hang_up, "RemoteDisconnected|ConnectionReset", id="hang up"),
    pytest.param(status(500), r"HTTP status 500 \('{\"error\": \"no\"}'\)", id="500"),
    pytest.param(status(404), "HTTP status 404", id="404"),
    pytest.param(status(301, Location="http://127.0.0.1:1/"), "HTTP status 301", id="redirect"),
    pytest.param(status(429), "HTTP status 429", id="429"),
    pytest.param(scores([1.0]), r'expected \{"scores": \[3 numbers\]\}, got a list of 1', id="wrong length"),
    pytest.param(scores("many"), r"expected .*, got \"{'scores': 'many'}\"", id="no list"),
    pytest.param(raw(b'{"scores": [1, NaN, 2]}'), "expected finite numbers, got 'nan' among them", id="NaN"),
    pytest.param(scores([1, None, 2]), ".*got 'None' among them", id="null"),
    pytest.param(scores([1, "2", True]), ".*got '2' among them", id="text"),
    pytest.param(scores([1, 1e300, 2]), ".*got '1e\\+300' among them", id="too large"),
    pytest.param(raw(b'{"scores": [1, ' + b"9" * 500 + b", 2]}"), ".*got '99+' among them", id="huge integer"),
    pytest.param(raw(b"<html>busy</html>"), "the reply is not JSON: b'<html>busy", id="not JSON"),
    pytest.param(raw(b"[" * 100_000), "the reply is not JSON", id="deeply nested"),
    pytest.param(raw(b""), "the reply is not JSON: b''", id="empty"),
    pytest.param(raw(b"[1, 2, 3]"), r".*got '\[1, 2, 3\]'", id="bare list"),
    pytest.param(raw(b" " * 300_000), "the reply is longer than 200000 bytes", id="huge"),
]


def patience(message: str) -> float:
    """A short timeout where the test is about it, else one that a busy machine keeps."""
    return 0.15 if "0.15 s" in message else 10.0


@pytest.mark.parametrize(("answer", "message"), FAILURES)
def test_failing_endpoint_is_a_reward_error_in_bounded_time(server: Server, answer: Answer, message: str) -> None:
    server.answers = [answer]
    rm = client(server, timeout_seconds=patience(message), attempts=1, max_reply_bytes=200_000)
    began = time.monotonic()
    with pytest.raises(RewardError, match=rf"the reward endpoint http://127.*: ({message}).*fallback_score"):
        rm.score(PROMPTS, RESPONSES)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(("answer", "message"), FAILURES)
def test_failing_endpoint_with_fallback_score_goes_on_and_counts(
    server: Server, answer: Answer, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [answer, answer, lengths]
    rm = client(server, timeout_seconds=patience(message), attempts=1, max_reply_bytes=200_000, fallback_score=-7.0)
    with caplog.at_level(logging.WARNING):
        found = rm.score(PROMPTS, RESPONSES)
    replaced = int((found == -7.0).sum())
    assert rm.fallbacks.count == replaced > 0
    assert replaced + len([x for x in found if x in (1.0, 2.0)]) == 3  # good numbers beside a bad one stay
    assert "Fallback score -7" in caplog.text
    rm.score(PROMPTS, RESPONSES)
    rm.timeout_seconds = 10.0
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), EXPECTED, rtol=1e-6)


def test_refused_connection_is_a_reward_error(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rm = HttpReward(f"http://127.0.0.1:{port}", attempts=2, backoff_seconds=0.001)
    with pytest.raises(RewardError, match="ConnectionRefusedError"):
        rm.score(["a"], ["b"])


def test_scores_come_in_order_from_concurrent_batches(server: Server) -> None:
    rm = client(server, batch_size=2, concurrency=3)
    prompts = ["p" * i for i in range(15)]
    assert isinstance(rm, RewardModel)
    found = rm.score(prompts, [""] * 15)
    assert found.dtype == np.float32
    assert found.tolist() == list(range(15))
    assert sorted(len(body["prompts"]) for body in server.seen) == [1, *[2] * 7]
    assert rm.score([], []).shape == (0,)
    with pytest.raises(ShapeError, match="got 1 prompts for 2 responses"):
        rm.score(["a"], ["b", "c"])


def test_concurrent_callers_get_their_own_scores(server: Server) -> None:
    rm = client(server, batch_size=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: rm.score(["p" * n] * 3, [""] * 3).tolist(), range(8)))
    assert found == [[float(n)] * 3 for n in range(8)]


def test_openrlhf_payload(server: Server) -> None:
    server.answers = [lambda handler, body: handler.reply({"rewards": [[1], [0.5]], "scores": [0, 0]})]
    rm = client(server, payload="openrlhf", headers={"Authorization": "Bearer x"})
    assert rm.score(["Hi", "Ho"], [" you", " me"]).tolist() == [1.0, 0.5]
    assert server.seen == [{"query": ["Hi you", "Ho me"], "prompts": ["Hi", "Ho"]}]
    assert "headers" not in rm.to_spec()


@pytest.mark.parametrize("first", [status(503), status(429, Retry_After="0"), hang_up, raw(b"oops"), scores([])])
def test_passing_failure_is_cured_by_another_attempt(server: Server, first: Answer) -> None:
    server.answers = [first, first, lengths]
    np.testing.assert_allclose(client(server).score(PROMPTS, RESPONSES), EXPECTED, rtol=1e-6)
    assert len(server.seen) == 3


@pytest.mark.parametrize("wait", ["0.2", "date", "nonsense"])
def test_retry_after_is_waited_for(server: Server, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: (pauses.append(seconds), sleep(seconds)))
    header = formatdate(time.time() - 5, usegmt=True) if wait == "date" else wait
    server.answers = [status(429, Retry_After=header), lengths]
    np.testing.assert_allclose(client(server).score(PROMPTS, RESPONSES), EXPECTED, rtol=1e-6)
    (pause,) = pauses
    assert (pause >= 0.2) == (wait == "0.2")


def test_retry_after_beyond_the_deadline_gives_up_at_once(server: Server) -> None:
    server.answers = [status(429, Retry_After="3600")]
    began = time.monotonic()
    with pytest.raises(RewardError, match="HTTP status 429"):
        client(server).score(PROMPTS, RESPONSES)
    assert time.monotonic() - began < 8
    assert len(server.seen) == 1


def test_lasting_failure_is_not_tried_again(server: Server) -> None:
    server.answers = [status(401)]
    with pytest.raises(RewardError, match="HTTP status 401"):
        client(server).score(PROMPTS, RESPONSES)
    assert len(server.seen) == 1


def test_whole_call_has_a_deadline(server: Server) -> None:
    server.answers = [stall]
    rm = client(server, timeout_seconds=0.1, total_seconds=0.25, attempts=50, batch_size=1, concurrency=1)
    rm.fallbacks.score = 0.0
    began = time.monotonic()
    assert rm.score(PROMPTS, RESPONSES).tolist() == [0.0, 0.0, 0.0]
    assert time.monotonic() - began < 8
    assert rm.fallbacks.count == 3


def test_dead_endpoint_is_tried_once_per_call_until_it_lives(server: Server) -> None:
    server.answers = [*[status(500)] * 4, lengths]
    rm = client(server, fallback_score=0.0)
    for expected_requests in (3, 4):
        assert rm.score(["a"], ["b"]).tolist() == [0.0]
        assert len(server.seen) == expected_requests
    assert rm.score(["a"], ["b"]).tolist() == pytest.approx([1.1])
    server.answers = [status(500)]
    rm.score(["a"], ["b"])
    assert len(server.seen) == 5 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://x"}, "`url` must be http"),
        ({"url": "http://"}, "`url` must be http"),
        ({"payload": "xml"}, "`payload` must be one of textenv, openrlhf; got 'xml'"),
        ({"batch_size": 0}, "`batch_size` must be ≥ 1, got 0"),
        ({"attempts": 0}, "`attempts` must be ≥ 1"),
        ({"timeout_seconds": 0}, "`timeout_seconds` and `total_seconds` must be positive"),
        ({"fallback_score": float("nan")}, "`fallback_score` must be finite or None, got nan"),
    ],
)
def test_unusable_settings_are_config_errors(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"url": "http://127.0.0.1"} | options
    with pytest.raises(ConfigError, match=message):
        HttpReward(**settings)
