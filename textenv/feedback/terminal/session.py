"""A labelling session: from item to item, by keys, until somebody quits, is cut off, or nothing is left."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rich.text import Text

from textenv.errors import DataError
from textenv.feedback.store import KINDS, Label, Progress
from textenv.feedback.terminal import view
from textenv.feedback.terminal.drafts import Drafts
from textenv.feedback.terminal.keys import Key
from textenv.feedback.terminal.ranking import Rank
from textenv.feedback.terminal.skipping import SkipForm
from textenv.feedback.terminal.sources import LabelSource, Shown, SourceError
from textenv.feedback.terminal.tasks import Compare, Demonstrate, Rate, Task
from textenv.feedback.terminal.texts import harmless, wrapped
from textenv.feedback.terminal.tty import Ended, Terminal

_POLL_SECONDS = 10.0
_DRAFT_SECONDS = 1.0
_COMMON = [
    ("↵", "save"),
    ("s", "skip, with a reason"),
    ("z", "take the last one back"),
    ("i", "instructions"),
    ("space PgUp PgDn", "read on, back"),
    ("Tab", "next answer"),
    ("?", "these keys"),
    ("q Ctrl-C", "quit"),
]
_ALIASES = {"ctrl-x": "s", "ctrl-z": "z", "ctrl-g": "i"}
"""Commands whose letter may be an answer's, or text."""


class Session:
    """One person's sitting.

    Whatever was acknowledged ("Saved") is in the database; whatever ends the session, the item that was open goes back
    to the queue, and an unfinished answer is kept for when the item comes again.

    Args:
        source: Gives items, takes labels.
        terminal: Reads keys, shows frames.
        kinds: Only items of these kinds.
        drafts: Keeps unfinished answers.
        clock: Seconds.
    """

    def __init__(
        self,
        source: LabelSource,
        terminal: Terminal,
        *,
        kinds: Sequence[str] = KINDS,
        drafts: Drafts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.saved = 0
        self._source, self._terminal, self._kinds, self._clock = source, terminal, tuple(kinds), clock
        self._drafts = drafts or Drafts()
        self._shown: Shown | None = None
        self._task: Task | None = None
        self._skip: SkipForm | None = None
        self._unsaved: Label | None = None
        self._mine: dict[str, tuple[Label, str]] = {}  # what was saved here, with its kind, so that undo can show it
        self._progress = Progress(0, 0, 0)
        self._message = ""
        self._help = False
        self._guide = True
        self._read: set[tuple[str, str]] = set()
        self._at = self._height = 0
        self._cursor = 0
        self._to_cursor = False
        self._wrapped: tuple[Any, view.Body] | None = None
        self._begun = 0.0

    def run(self) -> int:
        """Label until the end; how many labels and skips were saved.

        Raises:
            SourceError: If not even the first item could be had.
        """
        try:
            self._next()
            while True:
                self._draw()
                key = self._terminal.read_key(self._patience())
                if key is None:
                    self._idle()
                elif not self._press(key):
                    break
        except (Ended, KeyboardInterrupt):
            pass
        finally:
            self._keep_draft()
            with suppress(SourceError, DataError):
                self._source.release()
        return self.saved

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _press(self, key: Key) -> bool:
        """Do what a key asks; False to quit."""
        if key.name == "ctrl-c":
            return False
        if self._help:
            self._help = False
        elif self._skip is not None:
            self._press_in_form(self._skip, key)
        elif self._unsaved is not None:
            return self._press_unsaved(key)
        else:
            return self._press_in_task(key)
        return True

    def _press_in_task(self, key: Key) -> bool:
        self._message = ""
        task = self._task
        if task is not None and task.writes:
            self._press_writing(task, key)
            return True
        name = _ALIASES.get(key.name, key.name)
        if task is not None and name == key.name and task.press(key):
            self._follow(task, key)
            return True
        commands: dict[str, Callable[[], None]] = {"z": self._undo, "?": self._show_help}
        if task is not None:
            commands |= {"enter": self._finish, "s": self._open_skip, "i": self._toggle_guide, "e": self._edit}
        elif name == "enter":
            name = "r"
        commands |= {"r": self._next} if task is None else {}
        if name.lower() == "q":
            return False
        if name.lower() in commands:
            commands[name.lower()]()
        elif not self._scroll(name):
            self._wrong(key)
        return True

    def _press_writing(self, task: Task, key: Key) -> None:
        """Nearly every key is text here."""
        if key.name == "ctrl-d":
            self._finish()
        elif key.name == "ctrl-e":
            self._edit()
        elif key.name in ("pageup", "pagedown"):
            self._scroll(key.name)
        elif key.name in _ALIASES:
            {"s": self._open_skip, "z": self._undo, "i": self._toggle_guide}[_ALIASES[key.name]]()
        elif task.press(key):
            self._to_cursor = True
        else:
            self._wrong(key)

    def _press_in_form(self, form: SkipForm, key: Key) -> None:
        self._message = ""
        if key.name == "esc":
            self._skip = None
        elif key.name == "enter":
            reason = form.reason()
            if reason is None:
                self._message = "choose a reason first: 1 … 5; Esc goes back"
            else:
                self._skip = None
                self._save({}, reason)
        elif not form.press(key):
            self._message = f"{_named(key)} does nothing here: 1 … 5 choose a reason, ↵ skips, Esc goes back"

    def _press_unsaved(self, key: Key) -> bool:
        """A label waits to be saved: nothing else before that."""
        if key.name == "enter":
            self._send()
        elif key.name.lower() == "q":
            return False
        else:
            self._message = f"Not saved yet. ↵ tries again, q quits without it ({_named(key)} does nothing)"
        return True

    def _wrong(self, key: Key) -> None:
        if self._task is None:
            self._message = f"{_named(key)} does nothing here: r looks again, z takes the last one back, q quits"
            return
        name, what = self._task.keys[0]
        self._message = f"{_named(key)} does nothing here. {name}: {what}; ↵: save; ?: all keys"

    def _show_help(self) -> None:
        self._help = True

    # --- from item to item --------------------------------------------------------------------------------------------

    def _next(self, kinds: Sequence[str] = ()) -> None:
        """Show the next item."""
        given = self._source.next(kinds or self._kinds)
        self._progress = given.progress
        if given.shown == self._shown and given.shown is not None:
            return
        self._shown, self._task, self._wrapped, self._at = given.shown, None, None, 0
        if given.shown is None:
            return
        self._task = self._made(given.shown)
        about = (given.shown.kind, given.shown.instructions)
        self._guide = about not in self._read  # shown once, and again when they change
        self._read.add(about)
        self._begun = self._clock()

    def _made(self, shown: Shown) -> Task:
        if shown.kind == "demonstrate":
            return Demonstrate(shown, self._drafts.read(self._source.rater, shown.id))
        return {"rate": Rate, "compare": Compare, "rank": Rank}[shown.kind](shown)

    def _finish(self) -> None:
        assert self._task is not None
        payload = self._task.payload()
        if payload is None:
            self._message = f"Nothing to save yet: {self._task.missing}"
        else:
            self._save(payload)

    def _save(self, payload: dict[str, Any], skipped: str | None = None) -> None:
        assert self._shown is not None
        self._unsaved = Label(
            id=uuid.uuid4().hex,
            item=self._shown.id,
            rater=self._source.rater,
            payload=payload,
            seconds=round(max(0.0, self._clock() - self._begun), 3),
            order=self._shown.order,
            skipped=skipped,
        )
        self._send()

    def _send(self) -> None:
        """Save what waits; the same label again where it did not work, so that it counts once."""
        label, shown = self._unsaved, self._shown
        assert label is not None
        assert shown is not None
        try:
            self._source.save(label)
        except SourceError as error:
            self._message = f"Not saved yet: {error}. ↵ tries again, q quits without it"
            return
        except DataError as error:
            self._message = f"The label was not taken: {error}"
        else:
            self.saved += 1
            self._mine[label.id] = (label, shown.kind)
            self._message = "Saved" if label.skipped is None else "Skipped"
            self._drafts.keep(label.rater, label.item, "")
        self._unsaved = self._shown = self._task = None
        self._try_next()

    def _try_next(self, kinds: Sequence[str] = ()) -> None:
        try:
            self._next(kinds)
        except (SourceError, DataError) as error:
            self._shown = self._task = None
            self._message += f"{'. ' if self._message else ''}No item now: {error}. r tries again"

    def _undo(self) -> None:
        self._keep_draft()
        try:
            taken = self._source.undo()
        except (SourceError, DataError) as error:
            self._message = f"It was not taken back: {error}"
            return
        if taken is None:
            self._message = "There is nothing to take back"
            return
        label, kind = self._mine.pop(taken, (None, ""))
        self._message = "Taken back"
        self._shown = self._task = None
        self._try_next((kind,) if kind else KINDS)
        if label is not None and self._shown is not None and self._shown.id == label.item and label.skipped is None:
            assert self._task is not None
            self._task.restore(label.payload)

    def _open_skip(self) -> None:
        self._skip = SkipForm()

    def _edit(self) -> None:
        if not isinstance(self._task, Demonstrate):
            self._wrong(Key("e"))
            return
        text = self._terminal.edit(self._task.text)
        if text is None:
            self._message = "No editor was found, or it failed; the environment variable EDITOR names one"
        else:
            self._task.replace(text)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Seconds after which something is to be done without a key."""
        if isinstance(self._task, Demonstrate):
            return _DRAFT_SECONDS
        return _POLL_SECONDS if self._shown is None else None

    def _idle(self) -> None:
        self._keep_draft()
        if self._shown is None and self._unsaved is None and not self._help:
            self._message = ""
            self._try_next()

    def _keep_draft(self) -> None:
        if isinstance(self._task, Demonstrate) and self._shown is not None and self._unsaved is None:
            self._drafts.keep(self._source.rater, self._shown.id, self._task.text)

    # --- the screen ---------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        size = self._terminal.size
        width = size.columns - 1  # the last column makes some terminals go on to the next line
        title = self._task.title if self._task is not None else "Nothing left for now"
        lines = self._lines(width)
        below = self._below(width)
        top = view.header(title, self._source.rater, self._progress, width)
        _, self._height = view.frame(top, lines, 0, below, size)
        if self._to_cursor:
            self._at = min(max(self._at, self._cursor - self._height + 1), self._cursor)
            self._to_cursor = False
        self._at = max(0, min(self._at, len(lines) - self._height))
        drawn, _ = view.frame(top, lines, self._at, below, size)
        self._terminal.draw(drawn)

    def _lines(self, width: int) -> list[Text]:
        """The part that scrolls."""
        if self._help:
            return [line for name, what in self._all_keys() for line in _help_line(name, what, width)]
        shown, task = self._shown, self._task
        if shown is None or task is None:
            done = self._progress.labelled
            words = f"You have labelled {done}. " if done else ""
            return [Text(), *wrapped(f"{words}New items appear here by themselves.", width)]
        found = self._body(width)
        lines = view.headed(found, shown, task)
        if isinstance(task, Demonstrate):
            field, at = task.field(width)
            lines += [Text(), Text("Your answer", "bold cyan"), *field]
            self._cursor = len(lines) - len(field) + at
        return lines

    def _body(self, width: int) -> view.Body:
        assert self._shown is not None
        known = (self._shown.id, width, self._guide)
        if self._wrapped is None or self._wrapped[0] != known:
            self._wrapped = (known, view.body(self._shown, width, instructions=self._guide))
        return self._wrapped[1]

    def _below(self, width: int) -> list[Text]:
        """Where the task stands, the message, the keys."""
        said = (
            wrapped(Text(harmless(self._message).replace("\n", " "), "bold yellow"), width)[:4] if self._message else []
        )
        if self._help:
            return [*said, *view.key_line([("any key", "back")], width)]
        if self._skip is not None:
            return [*self._skip.state(width), *said, *view.key_line(self._skip.keys, width)]
        if self._task is None:
            keys = [("r", "look again"), ("z", "take the last one back"), ("q", "quit")]
            return [*said, *view.key_line(keys, width)]
        short = [("↵", "save"), ("s", "skip"), ("z", "undo"), ("?", "keys"), ("q", "quit"), ("i", "instructions")]
        if self._task.writes:
            short = [("Ctrl-X", "skip"), ("Ctrl-C", "quit")]
        elif isinstance(self._task, Demonstrate):
            short[0] = ("↵", "save it")
        own = view.key_line(self._task.keys, width)
        return [*self._task.state(width), *said, *own, *view.key_line(short, width, most=1)]

    def _all_keys(self) -> list[tuple[str, str]]:
        aliases = [("Ctrl-X Ctrl-Z Ctrl-G", "skip, take back, instructions: also where letters mean something else")]
        return [*(self._task.keys if self._task is not None else []), *_COMMON, *aliases]

    def _toggle_guide(self) -> None:
        self._guide = not self._guide
        self._at = 0

    def _scroll(self, name: str) -> bool:
        """Move what is in sight; whether the key does that."""
        page = max(1, self._height - 1)
        steps = {
            " ": page,
            "pagedown": page,
            "pageup": -page,
            "down": 1,
            "up": -1,
            "home": -1_000_000,
            "end": 1_000_000,
        }
        if name in steps:
            self._at = max(0, self._at + steps[name])
            return True
        if name in ("tab", "shift-tab") and self._wrapped is not None:
            marks = self._wrapped[1].marks
            after = [mark for mark in marks if mark > self._at]
            before = [mark for mark in marks if mark < self._at]
            if name == "tab":
                self._at = after[0] if after else 0
            else:
                self._at = before[-1] if before else marks[-1]
            return True
        return False

    def _follow(self, task: Task, key: Key) -> None:
        """Bring an answer that was picked by its letter into sight."""
        if not (isinstance(task, Rank) and key.is_text and task.picked is not None and self._wrapped is not None):
            return
        marks = self._wrapped[1].marks[-len(task.order) :]
        mark = marks[task.order.index(task.picked)]
        if not self._at <= mark < self._at + self._height:
            self._at = mark


def _help_line(name: str, what: str, width: int) -> list[Text]:
    column = min(20, width // 2)
    if len(name) >= column:
        return [Text(name, "bold"), *wrapped(what, width, indent=2)]
    lines = wrapped(what, width, indent=column)
    return [Text(name.ljust(column), "bold") + lines[0][column:], *lines[1:]]


def _named(key: Key) -> str:
    names = {" ": "space", "paste": "pasted text", "enter": "↵", "up": "↑", "down": "↓", "left": "←", "right": "→"}
    return names.get(key.name, key.name if len(key.name) > 1 else f"'{key.name}'")
