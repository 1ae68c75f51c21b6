"""A live line of progress per stage: rate, time left and the figures that matter.

In a terminal the line is redrawn in place; elsewhere (a file, CI) a plain line appears every ``interval_seconds``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class StageProgress:
    """Progress of one stage; a context manager.

    Args:
        name: Shown at the left.
        total: Number of steps.
        console: Where to draw; None draws nothing.
        start: Steps done before (a resumed stage).
        interval_seconds: How often a plain line is printed where the console is no terminal.
    """

    def __init__(
        self,
        name: str,
        total: int,
        console: Console | None = None,
        *,
        start: int = 0,
        interval_seconds: float = 15.0,
    ) -> None:
        self.name = name
        self.total = total
        self.done = start
        self._start = start
        self._console = console
        self._interval_seconds = interval_seconds
        self._began = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> StageProgress:
        self._began = self._printed = time.monotonic()
        if self._console is not None and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description:<12}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.done, rate="", figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, figures: Mapping[str, float] | None = None, *, tokens: int = 0) -> None:
        """Say how far the stage is.

        Args:
            done: Steps done since the stage's beginning, resumed steps included.
            figures: Up to four named figures to show.
            tokens: Tokens handled since this process began the stage; gives tokens per second.
        """
        self.done = done
        if self._console is None:
            return
        seconds = max(time.monotonic() - self._began, 1e-9)
        steps_per_second = (done - self._start) / seconds
        rate = f"{_short(tokens / seconds)} tok/s" if tokens else f"{_short(steps_per_second)} it/s"
        shown = "  ".join(f"{name} {_short(value)}" for name, value in list((figures or {}).items())[:4])
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=rate, figures=shown)
        elif time.monotonic() - self._printed >= self._interval_seconds or done == self.total:
            self._printed = time.monotonic()
            left = (self.total - done) / steps_per_second if steps_per_second > 0 else 0.0
            self._console.print(
                f"{self.name:<12} {done}/{self.total}  {rate}  {left:.0f} s left  {shown}", highlight=False
            )
