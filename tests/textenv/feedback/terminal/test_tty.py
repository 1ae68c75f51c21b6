from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.textenv.feedback.server.conftest import served
from textenv.cli.main import main
from textenv.errors import ConfigError, TextEnvError
from textenv.feedback.app import build_app
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore
from textenv.feedback.terminal import ServerSource


class Screen:
    """``textenv label`` on a terminal of its own, as ssh gives one."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24, home: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        environment = os.environ | {"TERM": "xterm", "XDG_STATE_HOME": str(home), "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "textenv", "label", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment,
        )
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Read until the text was shown."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} never came: {self.seen[-2000:]}"
            self.seen += os.read(self.master, 65536).decode(errors="replace")

    def type(self, text: str, then: str) -> None:
        self.seen = ""
        os.write(self.master, text.encode())
        self.wait_for(then)

    def end(self) -> int:
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.process.wait(1)


@pytest.fixture
def path(store: FeedbackStore, make_item, tmp_path: Path) -> str:
    store.add_items([make_item("rate", number) for number in range(3)])
    return str(tmp_path / "feedback.db")


def leases(path: str) -> int:
    with FeedbackStore(path) as store, store.database.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM leases").scalar_one()


def started(path: str, home: Path, **size: int) -> Screen:
    screen = Screen("--db", path, "--rater", "ann", "--gold_share", "0", home=home, **size)
    screen.wait_for("quit")
    return screen


def test_label_in_a_real_terminal(path, tmp_path):
    screen = started(path, tmp_path)
    assert leases(path) == 1
    screen.type("4", "[4 good]")
    screen.type("\r", "Saved")
    screen.type("q", "1 saved, thank you")

    assert screen.end() == 0
    assert leases(path) == 0
    assert termios.tcgetattr(screen.slave) == screen.before
    with FeedbackStore(path) as store:
        assert [each.label.payload for each in store.labels()] == [{"score": 4}]


@pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM", "SIGHUP", "hang up"])
def test_however_it_ends_what_was_saved_stays_and_the_lease_ends(path, tmp_path, how):
    screen = started(path, tmp_path)
    screen.type("2\r", "Saved")
    screen.type("3", "[3 neither]")
    if how == "ctrl-c":
        os.write(screen.master, b"\x03")
    elif how == "hang up":
        os.close(screen.slave)
        os.close(screen.master)
        screen.process.wait(20)
    else:
        screen.process.send_signal(getattr(signal, how))
    if how != "hang up":
        assert screen.end() == 0
        assert "\x1b[?1049l" in screen.seen
        assert termios.tcgetattr(screen.slave) == screen.before

    assert leases(path) == 0
    with FeedbackStore(path) as store:
        assert [each.label.payload for each in store.labels()] == [{"score": 2}]


def test_a_new_size_is_drawn_at_once(path, tmp_path):
    screen = started(path, tmp_path)
    screen.seen = ""
    fcntl.ioctl(screen.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 0, 0))
    screen.process.send_signal(signal.SIGWINCH)
    screen.wait_for(" 4 good")
    screen.type("q", "nothing saved")
    assert screen.end() == 0


def test_kill_9_loses_nothing_and_the_lease_runs_out(path, tmp_path, store, clock):
    screen = started(path, tmp_path)
    screen.type("5\r", "Saved")
    screen.process.kill()
    screen.process.wait(10)

    assert [each.label.payload for each in store.labels()] == [{"score": 5}]
    clock.now = time.time() + 1000
    assert store.next_assignment("bob") is not None


def test_label_over_a_running_server(path, tmp_path, store):
    security = Security(b"k" * 64, "a-token-of-the-tests")
    app = build_app(store, {}, security)
    with served(app) as base:
        screen = Screen("--url", base + security.rater_link("bob"), home=tmp_path)
        screen.wait_for("bob · 0 done")
        screen.type("1\r", "Saved")
        screen.type("z", "Taken back")
        screen.type("2\r", "Saved")
        screen.type("s3why\r", "Skipped")
        screen.type("q", "3 saved")
        assert screen.end() == 0
    found = [(each.label.rater, each.label.payload, each.label.skipped) for each in store.labels(include_skipped=True)]
    assert found == [
        ("bob", {"score": 2}, None),
        ("bob", {}, "The text is broken, or in another language: why"),
    ]
    with store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM leases").scalar_one() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rater", "ann"], "this needs a terminal"),
        ([], "say who labels: `--rater NAME`"),
        (["--rater", "ann", "--db", "none.db"], "there is no such file"),
        (["--rater", "ann", "--kinds", "rate,guess"], "`--kinds` may be"),
    ],
)
def test_label_says_what_is_wrong_in_one_line(path, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["label", "--db", path, *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("http://127.0.0.1:1/label", "must be a rater's link"),
        ("http://127.0.0.1:1/label/enter?rater=ann", "the server cannot be reached"),
    ],
)
def test_links_that_lead_nowhere(link, message):
    with pytest.raises(TextEnvError, match=message):
        ServerSource(link)


def test_a_forged_link_is_refused(store):
    security = Security(b"k" * 64, "a-token-of-the-tests")
    with served(build_app(store, {}, security)) as base, pytest.raises(ConfigError, match="not genuine"):
        ServerSource(base + Security(b"x" * 64).rater_link("bob"))
