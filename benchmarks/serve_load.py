"""``textenv serve`` under load, on loopback: 200 raters for a minute, a kill in the middle, and callers that share.

    python benchmarks/serve_load.py labels              # 200 raters, 60 s, no error, p95 of a save under 100 ms
    python benchmarks/serve_load.py labels --kill 20    # kill -9 after 20 s, start again: nothing lost, nothing twice
    python benchmarks/serve_load.py labels --route api  # items by the JSON interface instead of the page's own route
    python benchmarks/serve_load.py labels --db postgresql://…   # a database of its own, emptied afterwards
    python benchmarks/serve_load.py api                 # 16 callers at once beside one at a time, SmolLM2-135M
    python benchmarks/serve_load.py … --check           # exit status 1 where a figure misses its target

The server is a process of its own; this one plays raters and callers over plain HTTP/1.1 connections that stay open. A
rater asks for an item, thinks for an exponentially distributed time, and saves a label, as the labelling page does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

TOKEN = "benchmark-token-0123456789"
P95_TARGET_MS = 100.0
SPEEDUP_TARGET = 4.0


class Server:
    """``textenv serve`` as a process of its own.

    Args:
        arguments: Of the command, beside port and token.
        port: 0 takes a free one.
    """

    def __init__(self, arguments: Sequence[str], port: int = 0) -> None:
        command = [sys.executable, "-m", "textenv", "serve", "--port", str(port), "--token", TOKEN, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("serving on "):
                self.url = line.split()[-1]
                break
        else:
            self._end()
            raise RuntimeError(f"the server ended with status {self.process.returncode}")
        self.port = urlsplit(self.url).port or 0

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.process.kill()
        self._end()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()

    def _end(self) -> None:
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Connection:
    """One HTTP/1.1 connection that stays open; opened again where it broke.

    Args:
        port: On loopback.
        bearer: Sent with every request.
    """

    def __init__(self, port: int, bearer: str) -> None:
        self._port = port
        self._bearer = bearer
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer.

        Raises:
            OSError: If the server is not there or hangs up.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._bearer}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + content)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            size = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
            return int(lines[0].split()[1]), json.loads(await reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise OSError("the server hung up") from error

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


@dataclass
class Tally:
    """What the raters saw.

    Attributes:
        saves: Seconds that each acknowledged save took.
        nexts: Seconds that each new item took.
        acknowledged: Ids of labels that the server said it has.
        errors: Answers that should not have been.
        broken: Requests that met no server.
    """

    saves: list[float] = field(default_factory=list)
    nexts: list[float] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    broken: int = 0


async def ask(connection: Connection, tally: Tally, method: str, path: str, body: Any, until: float) -> Any:
    """An answer's JSON; tries again while there is no server, None where it is late or refused."""
    while time.monotonic() < until + 30:
        try:
            begun = time.monotonic()
            status, content = await connection.request(method, path, body)
            if status != 200:
                tally.errors.append(f"{status} {path}: {content}")
                return None
            (tally.saves if method == "POST" else tally.nexts).append(time.monotonic() - begun)
            return content
        except OSError:
            tally.broken += 1
            await asyncio.sleep(0.2)
    tally.errors.append(f"no server for {path}")
    return None


def judge(item: dict[str, Any], rng: Random) -> dict[str, Any]:
    """A payload for whatever is asked."""
    count = len(item["answers"])
    return {
        "demonstrate": {"text": "an answer " * 20},
        "rate": {"score": rng.randint(1, 5)},
        "rank": {"ranks": [rng.randint(1, max(count, 1)) for _ in range(count)]},
        "compare": {"preferred": rng.randint(0, 1), "margin": rng.randint(0, 3), "both_bad": False},
    }[item["kind"]]


ROUTES = {"page": "/label/next", "api": "/api/next"}
"""Where a rater's next item comes from: what the labelling page asks, or what programs ask."""


async def rater(connection: Connection, tally: Tally, think: float, until: float, rng: Random, route: str) -> None:
    """Label until the time is over."""
    await asyncio.sleep(rng.uniform(0, think))
    while time.monotonic() < until:
        given = await ask(connection, tally, "GET", ROUTES[route], None, until)
        if given is None or given["assignment"] is None:
            tally.errors.append("no item left" if given else "no item")
            break
        item = given["assignment"]
        seconds = rng.expovariate(1 / think)
        await asyncio.sleep(seconds)
        label = {"id": uuid.uuid4().hex, "item": item["id"], "payload": judge(item, rng), "seconds": seconds}
        saved = await ask(connection, tally, "POST", "/api/labels", label | {"order": item["order"]}, until)
        if saved is not None:
            tally.acknowledged.add(label["id"])
    connection.close()


def fill(path: str, count: int) -> None:
    """Put items of all kinds into the queue, some for three raters, some gold."""
    from textenv.feedback.store import Answer, FeedbackStore, Item

    def item(number: int) -> Item:
        kind = ("rate", "rank", "compare", "demonstrate")[number % 4]
        size = {"rate": 1, "rank": 4, "compare": 2, "demonstrate": 0}[kind]
        text = f"answer to {number}: " + "words and more words " * 10
        answers = tuple(Answer(f"{text}{j}", "policy", "v1", {"temperature": 0.8}, j) for j in range(size))
        gold = {"preferred": 0} if kind == "compare" and number % 100 == 2 else None
        return Item(kind, f"prompt number {number}", answers, wanted=1 + 2 * (number % 5 == 0), gold=gold)  # type: ignore[arg-type]  # kind is a plain str here

    with FeedbackStore(path) as store:
        store.add_items(item(number) for number in range(count))


async def play(server: Server, arguments: argparse.Namespace, tally: Tally, serve: Sequence[str]) -> Server:
    """Let the raters work; kill the server and start it again where asked for. The server that is there at the end."""
    admin = Connection(server.port, TOKEN)
    bearers = []
    for number in range(arguments.raters):
        _, given = await admin.request("POST", "/admin/links", {"rater": f"rater {number}"})
        bearers.append(given["credential"])
    admin.close()
    until = time.monotonic() + arguments.seconds
    work = [
        asyncio.ensure_future(
            rater(Connection(server.port, bearer), tally, arguments.think, until, Random(number), arguments.route)
        )
        for number, bearer in enumerate(bearers)
    ]
    if arguments.kill:
        await asyncio.sleep(arguments.kill)
        server.kill()
        before = len(tally.acknowledged)
        server = await asyncio.to_thread(Server, serve, server.port)
        print(f"killed after {before} acknowledged labels, up again")
    await asyncio.gather(*work)
    return server


def percentile(values: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def labels(arguments: argparse.Namespace) -> bool:
    """Raters at work; whether all targets were met."""
    from textenv.feedback.store import FeedbackStore, schema

    with tempfile.TemporaryDirectory() as folder:
        path = arguments.db or str(Path(folder) / "load.db")
        fill(path, arguments.items)
        serve = ["--db", path, "--key_file", f"{folder}/key", "--api_rate", "1000000", "--labelling_rate", "100000"]
        tally = Tally()
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        server = Server(serve)
        try:
            server = asyncio.run(play(server, arguments, tally, serve))
        finally:
            server.stop()
        with FeedbackStore(path) as store:
            kept = [each.label for each in store.labels()]
            if arguments.db:
                schema.metadata.drop_all(store.database.engine)
    lost = tally.acknowledged - {label.id for label in kept}
    twice = len(kept) - len({(label.item, label.rater) for label in kept})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_ms = 1000 * (after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime)
    count = len(tally.acknowledged)
    p95 = percentile(tally.saves, 0.95)
    print(
        f"{arguments.raters} raters by {ROUTES[arguments.route]}, {arguments.seconds:g} s, thinking "
        f"{arguments.think:g} s\n{count} labels ({count / arguments.seconds:.0f}/s), the server's CPU "
        f"{cpu_ms / max(1, count):.1f} ms each\n"
        f"save  p50 {percentile(tally.saves, 0.5):.1f} ms, p95 {p95:.1f} ms, "
        f"p99 {percentile(tally.saves, 0.99):.1f} ms\n"
        f"next  p50 {percentile(tally.nexts, 0.5):.1f} ms, p95 {percentile(tally.nexts, 0.95):.1f} ms\n"
        f"errors {len(tally.errors)}, requests that met no server {tally.broken}, "
        f"labels lost {len(lost)}, twice {twice}, of {len(kept)} in the database"
    )
    for error in tally.errors[:5]:
        print(f"  {error}")
    return not tally.errors and not lost and not twice and p95 < P95_TARGET_MS


async def call(port: int, model: str, tokens: int, number: int) -> int:
    """One completion; how many tokens it has."""
    body = {
        "model": model,
        "prompt": f"Question number {number}: what is worth knowing about the sea?",
        "max_tokens": tokens,
        "seed": number,
        "temperature": 1.0,
    }
    connection = Connection(port, TOKEN)
    status, answer = await connection.request("POST", "/v1/completions", body)
    connection.close()
    if status != 200:
        raise RuntimeError(f"{status}: {answer}")
    return answer["usage"]["completion_tokens"]


async def compare(port: int, model: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Tokens per second of callers one after another, and of as many at once; in turns, the medians."""
    await call(port, model, 8, 0)
    alone, together = [], []
    for repeat in range(arguments.repeats):
        begun, count = time.monotonic(), 0
        for number in range(4):
            count += await call(port, model, arguments.tokens, repeat * 100 + number)
        alone.append(count / (time.monotonic() - begun))
        begun = time.monotonic()
        numbers = range(arguments.callers)
        count = sum(await asyncio.gather(*(call(port, model, arguments.tokens, repeat * 100 + n) for n in numbers)))
        together.append(count / (time.monotonic() - begun))
    return sorted(alone)[len(alone) // 2], sorted(together)[len(together) // 2]


def api(arguments: argparse.Namespace) -> bool:
    """Callers who share the engine; whether the target was met."""
    policy = arguments.policy
    if not policy:
        from textenv.datasets.smollm2 import smollm2_path

        policy = str(smollm2_path())
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--db",
            str(Path(folder) / "api.db"),
            "--dtype",
            arguments.dtype,
            "--threads",
            str(arguments.threads),
        ]
        server = Server(["--policy", f"model={policy}", "--api_rate", "1000000", *options])
        try:
            alone, together = asyncio.run(compare(server.port, "model", arguments))
        finally:
            server.stop()
    print(
        f"one caller at a time {alone:.1f} tokens/s, {arguments.callers} at once {together:.1f} tokens/s: "
        f"{together / alone:.2f} times as many"
    )
    return together >= SPEEDUP_TARGET * alone


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("labels", "api"))
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between an item and its label")
    parser.add_argument("--kill", type=float, default=0.0, help="kill -9 after so many seconds, and start again")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--route", choices=tuple(ROUTES), default="page", help="where raters get their items")
    parser.add_argument("--db", default="", help="an empty database's URL; a SQLite file where empty")
    parser.add_argument("--policy", default="", help="folder; SmolLM2-135M-Instruct where empty")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="exit status 1 where a target is missed")
    arguments = parser.parse_args()
    met = {"labels": labels, "api": api}[arguments.what](arguments)
    return int(arguments.check and not met)


if __name__ == "__main__":
    sys.exit(main())
