"""What is asked first, kept up to date in the background: a selector goes through the queue when new items came."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from textenv.errors import TextEnvError
from textenv.feedback.store import FeedbackStore, Selector

_logger = logging.getLogger(__name__)


class Selection:
    """Puts the queue in order, in a thread of its own.

    Args:
        store: Holds the queue.
        find: The selector that holds now, None where there is none yet; asked before each pass, so it may change, and
            the queue is put in order again when it does.
        every_seconds: Between two looks for new items or a new selector; 0 waits to be asked.
    """

    def __init__(self, store: FeedbackStore, find: Callable[[], Selector | None], every_seconds: float = 10.0) -> None:
        self._store, self._find, self._every = store, find, every_seconds
        self._done: tuple[int, Selector | None] = (-1, None)
        self._wanted = threading.Event()
        self._asked = self._closed = False
        self._thread: threading.Thread | None = None
        self.passes = 0
        self.ordered = 0
        self.seconds = 0.0
        self.error = ""

    def start(self) -> None:
        """Begin to look."""
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="textenv-selection", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; a pass that is under way is not waited for longer than a moment, it changes nothing half."""
        self._closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def ask(self) -> None:
        """Put the queue in order soon, whether or not something is new."""
        self._asked = True
        self._wanted.set()

    def run(self, *, force: bool = False) -> bool:
        """One look, and a pass where it is due; whether there was one."""
        selector, count = self._find(), self._store.item_count()
        if selector is None or (not force and (count, selector) == self._done):
            return False
        begun = time.monotonic()
        self.ordered = self._store.reprioritise(selector)
        self._done = (count, selector)
        self.passes += 1
        self.seconds = time.monotonic() - begun
        self.error = ""
        return True

    def status(self) -> dict[str, Any]:
        """For the administration."""
        return {
            "passes": self.passes,
            "ordered": self.ordered,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }

    def _work(self) -> None:
        while not self._closed:
            asked, self._asked = self._asked, False
            try:
                if asked or self._every > 0:
                    self.run(force=asked)
            except (TextEnvError, SQLAlchemyError, OSError, RuntimeError) as error:  # torch's are RuntimeErrors
                _logger.warning("putting the queue in order failed: %s", error)
                self.error = str(error)
            self._wanted.wait(self._every or None)
            self._wanted.clear()
