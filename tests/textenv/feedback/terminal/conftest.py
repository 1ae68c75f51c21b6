"""A terminal that types what a test says and keeps what it was shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.text import Text

from textenv.feedback.store import FeedbackStore
from textenv.feedback.terminal import Session, StoreSource
from textenv.feedback.terminal.drafts import Drafts
from textenv.feedback.terminal.keys import Key
from textenv.feedback.terminal.tty import Ended, Size

Step = str | Key | Callable[[], object] | None


class Typist:
    """Types keys (a list of names, of `Key`, of things to do first, or None for a pause); then hangs up."""

    def __init__(self, steps: Sequence[Step], columns: int = 80, rows: int = 24) -> None:
        self.steps = list(steps)
        self.size = Size(columns, rows)
        self.frames: list[list[str]] = []
        self.editor: Callable[[str], str | None] = lambda text: None

    def draw(self, lines: Sequence[Text]) -> None:
        assert len(lines) == self.size.rows
        assert all(line.cell_len < self.size.columns for line in lines)
        self.frames.append([line.plain for line in lines])

    def read_key(self, timeout: float | None) -> Key | None:
        while self.steps:
            step = self.steps.pop(0)
            if not callable(step):
                return Key(step) if isinstance(step, str) else step
            step()
        raise Ended

    def edit(self, text: str) -> str | None:
        return self.editor(text)

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self.frames[-1])


@pytest.fixture
def drafts(tmp_path: Path) -> Drafts:
    return Drafts(tmp_path / "drafts")


@pytest.fixture
def sit(store: FeedbackStore, drafts: Drafts) -> Callable[..., Typist]:
    """Lets a person sit down, type these keys, and hang up."""

    def run(*steps: Step, rater: str = "ann", columns: int = 80, rows: int = 24, **options) -> Typist:
        typist = Typist(steps, columns, rows)
        source = options.pop("source", None) or StoreSource(store, rater)
        typist.editor = options.pop("editor", typist.editor)
        Session(source, typist, drafts=drafts, **options).run()
        return typist

    return run
