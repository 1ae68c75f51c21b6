r"""The real terminal: keys in, frames out, everything put back as it was at the end.

Signals only wake the reader up. So an interruption, a hang-up or a request to end is met between two keys, never in the
middle of a save; a second Ctrl-C ends a save that waits for a server. Ctrl-Z and Ctrl-\ are keys like others here.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol, Self

from rich.console import Console
from rich.text import Text

from textenv.errors import ConfigError
from textenv.feedback.terminal.keys import Key, KeyReader

_ENTER = "\x1b[?1049h\x1b[?2004h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?2004l\x1b[?1049l"
_ESCAPE_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)


class Ended(Exception):
    """The terminal is gone, or somebody asked the process to end."""


class Size(NamedTuple):
    """Of a terminal, in characters."""

    columns: int
    rows: int


class Terminal(Protocol):
    """What a session needs."""

    @property
    def size(self) -> Size:
        """How large it is now."""
        ...

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, from the top."""
        ...

    def read_key(self, timeout: float | None) -> Key | None:
        """The next key; None where none came in time, or the size changed.

        Raises:
            Ended: If no key will ever come.
        """
        ...

    def edit(self, text: str) -> str | None:
        """Let the person change a text with their own editor; None where that did not work."""
        ...


class TtyTerminal:
    """The terminal of this process, as a context manager.

    Raises:
        ConfigError: On entering, if input or output is no terminal.
    """

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._reader = KeyReader()
        self._ended = False
        self._interrupts = 0
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ConfigError(
                "this needs a terminal for its keys; without one, label on the page (`textenv serve`) or import a file "
                "(`textenv labels import`)"
            )
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._console = Console(file=sys.stdout, force_terminal=True, legacy_windows=False)
        self._before = termios.tcgetattr(self._in)
        self._wake, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._wake, False)
        self._old_wakeup = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        self._raw()
        self._write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Ended):
            self._write(_LEAVE)
        with suppress(termios.error, OSError):
            termios.tcsetattr(self._in, termios.TCSANOW, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._wake)
        os.close(self._wakes)

    @property
    def size(self) -> Size:
        """How large the terminal is now; at least 20 by 8, whatever it says."""
        found = shutil.get_terminal_size()
        with suppress(OSError):
            found = os.get_terminal_size(self._out)
        return Size(max(20, found.columns), max(8, found.lines))

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, from the top."""
        drawn = [self._rendered(line) + "\x1b[0m\x1b[K" for line in lines]
        self._write("\x1b[?2026h\x1b[H" + "\r\n".join(drawn) + "\x1b[J\x1b[?2026l")

    def read_key(self, timeout: float | None) -> Key | None:
        """The next key; None where none came in time, or the size changed.

        Raises:
            Ended: If the terminal is gone, or the process is asked to end.
        """
        if not self._keys:
            self._wait(timeout)
        if self._ended:
            raise Ended
        if self._interrupts:
            self._interrupts = 0
            return Key("ctrl-c")
        return self._keys.pop(0) if self._keys else None

    def edit(self, text: str) -> str | None:
        """Let the person change a text with ``$VISUAL`` or ``$EDITOR``; None where there is none, or it failed."""
        from textenv.feedback.terminal.drafts import edited

        self._write(_LEAVE)
        termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's
        try:
            return edited(text)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        finally:
            signal.signal(signal.SIGINT, handler)
            self._raw()
            self._write(_ENTER)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _raw(self) -> None:
        """Keys one by one, without echo; Ctrl-C still signals, so that it reaches a save that hangs."""
        mode = termios.tcgetattr(self._in)
        mode[tty.IFLAG] &= ~(termios.IXON | termios.ICRNL)
        mode[tty.LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        mode[tty.CC][termios.VMIN], mode[tty.CC][termios.VTIME] = 1, 0
        for name in (termios.VSUSP, termios.VQUIT):
            mode[tty.CC][name] = b"\x00"
        termios.tcsetattr(self._in, termios.TCSADRAIN, mode)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        elif number != signal.SIGWINCH:
            self._ended = True

    def _wait(self, timeout: float | None) -> None:
        """Wait for keys, a signal, or the end of the time."""
        if self._ended or self._interrupts:
            return
        if self._reader.pending:
            timeout = _ESCAPE_SECONDS
        ready, _, _ = select.select([self._in, self._wake], [], [], timeout)
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._in in ready:
            try:
                data = os.read(self._in, 65536)
            except OSError:
                data = b""
            if not data:
                self._ended = True
            self._keys += self._reader.feed(data)
        if self._reader.pending and not ready:
            self._keys += self._reader.give_up()
        elif self._reader.pending and not self._keys:
            self._wait(timeout)

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", overflow="ignore", no_wrap=True, crop=False)
        return capture.get()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError as error:
            self._ended = True
            raise Ended from error
