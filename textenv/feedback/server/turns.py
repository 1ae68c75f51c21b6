"""A thread of its own for work on the store: requests wait for their turn on the event loop, not in threads.

Writers take turns in the store anyway. With a pool's forty threads, all of them would wait for that lock and for the
interpreter, which at 200 raters took more than half of the server's time; one thread per group of routes does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class Turns:
    """Runs functions one after another.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def __call__(
        self, function: Callable[_Given, _Made], *arguments: _Given.args, **named: _Given.kwargs
    ) -> _Made:
        """What the function returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*arguments, **named))
