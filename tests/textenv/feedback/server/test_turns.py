"""Whose work on the store comes first."""

from __future__ import annotations

import asyncio
import threading

import pytest

from textenv.feedback.server.turns import Turns


@pytest.fixture
def turns():
    return Turns()


async def hold(turns: Turns) -> tuple[threading.Event, asyncio.Future[None]]:
    """Occupy the thread until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert release.wait(20)

    held = asyncio.ensure_future(turns(wait))
    assert await asyncio.to_thread(begun.wait, 20)
    return release, held


def test_saves_come_before_what_waits_longer_and_each_kind_in_its_order(turns):
    async def play() -> list[str]:
        done: list[str] = []
        release, held = await hold(turns)
        others = [asyncio.ensure_future(turns(done.append, f"next {n}")) for n in range(3)]
        await asyncio.sleep(0)
        saves = [asyncio.ensure_future(turns.first(done.append, f"save {n}")) for n in range(3)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(held, *others, *saves)
        return done

    assert asyncio.run(play()) == ["save 0", "save 1", "save 2", "next 0", "next 1", "next 2"]


def test_one_at_a_time_in_one_thread(turns):
    async def play() -> set[int]:
        calls = [turns.first if n % 2 else turns for n in range(20)]
        return set(await asyncio.gather(*(call(threading.get_ident) for call in calls)))

    threads = asyncio.run(play())
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_an_error_reaches_who_asked_and_the_next_one_goes_on(turns):
    async def play() -> int:
        with pytest.raises(ZeroDivisionError):
            await turns(lambda: 1 // 0)
        return await turns.first(int, "7")

    assert asyncio.run(play()) == 7


def test_who_hangs_up_while_waiting_costs_nobody_a_turn(turns):
    async def play() -> list[str]:
        done: list[str] = []
        release, held = await hold(turns)
        gone = asyncio.ensure_future(turns.first(done.append, "gone"))
        stays = asyncio.ensure_future(turns(done.append, "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(held, stays)
        assert gone.cancelled()
        return done

    assert asyncio.run(play()) == ["stays"]
