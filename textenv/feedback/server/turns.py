"""A thread of its own for work on the store: requests wait for their turn on the event loop, not in threads.

Writers take turns in the store anyway. With a pool's forty threads, all of them would wait for that lock and for the
interpreter, which at 200 raters took more than half of the server's time; one thread for all labelling does not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class Turns:
    """Runs functions one after another in one thread; what somebody made comes before what somebody wants.

    Two queues, each first come, first served. A save waits for saves and for the function that runs; the next item of
    somebody who reads takes what time is left. Saves cannot keep the others away for long: each needs an item first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="textenv-labels")
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._other: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    async def __call__(
        self, function: Callable[_Given, _Made], *arguments: _Given.args, **named: _Given.kwargs
    ) -> _Made:
        """What the function returns or raises."""
        return await self._queued(self._other, lambda: function(*arguments, **named))

    async def first(self, function: Callable[_Given, _Made], *arguments: _Given.args, **named: _Given.kwargs) -> _Made:
        """The same, before all that came by :meth:`__call__`."""
        return await self._queued(self._urgent, lambda: function(*arguments, **named))

    async def _queued(
        self, queue: deque[tuple[Future[Any], Callable[[], _Made]]], function: Callable[[], _Made]
    ) -> _Made:
        future: Future[_Made] = Future()
        queue.append((future, function))
        self._thread.submit(self._run_one)
        return await asyncio.wrap_future(future)

    def _run_one(self) -> None:
        """The most urgent of those that wait; there is one for each call."""
        future, function = (self._urgent or self._other).popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            made = function()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised where the result is awaited
            future.set_exception(error)
        else:
            future.set_result(made)
