"""Deadlines that are met, also where a library loses a cancellation."""

from __future__ import annotations

import asyncio

import pytest
from support.virtual_time import run_virtual, virtual_clock

from service.aio.tasks import end_tasks
from service.aio.waits import bounded_wait, cancel_reliably, ends_within

SOON_S = 1.0


async def deaf() -> str:
    """As redis-py: the first cancellation is lost while it sends, and then it waits for a reply."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)
    return "reply"


def test_a_deadline_is_met_although_the_library_is_deaf() -> None:
    async def ask() -> None:
        async with asyncio.timeout(5):
            await cancel_reliably(deaf())

    async def play() -> None:
        begun_s = virtual_clock()
        with pytest.raises(TimeoutError):
            await ask()
        assert virtual_clock() - begun_s < 5 + SOON_S
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert asyncio.all_tasks() == {task}

    run_virtual(play())


def test_two_deadlines_at_once_end_a_group() -> None:
    """The parent's and the child's deadline are the same: the child is cancelled twice before it runs."""

    async def child() -> None:
        async with asyncio.timeout(5):
            await cancel_reliably(deaf())

    async def parent() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(child())

    async def play() -> None:
        begun_s = virtual_clock()
        with pytest.raises((TimeoutError, BaseExceptionGroup)):
            await parent()
        assert virtual_clock() - begun_s < 5 + SOON_S

    run_virtual(play())


def test_results_and_errors_pass_unchanged() -> None:
    async def fail() -> None:
        raise ValueError("of the library")

    async def play() -> None:
        assert await cancel_reliably(asyncio.sleep(1, "reply")) == "reply"
        with pytest.raises(ValueError, match="of the library"):
            await cancel_reliably(fail())

    run_virtual(play())


class LateError(Exception):
    """What the caller wants raised."""


def test_a_bounded_wait_raises_its_callers_error() -> None:
    async def late(*, left_s: float | None, inner_s: float = 1e9) -> None:
        async with bounded_wait(left_s, lambda: LateError("a look")):
            async with asyncio.timeout(inner_s):
                await asyncio.sleep(10)

    async def play() -> None:
        await late(left_s=20)
        await late(left_s=None)
        with pytest.raises(LateError, match="a look"):
            await late(left_s=5)
        with pytest.raises(TimeoutError):
            await late(left_s=5, inner_s=1)

    run_virtual(play())


def test_what_takes_too_long_is_cancelled() -> None:
    async def fail() -> None:
        raise TimeoutError("of the body")

    async def play() -> None:
        assert await ends_within(5, asyncio.sleep(1))
        assert await ends_within(None, asyncio.sleep(1))
        slow = asyncio.create_task(asyncio.sleep(10))
        assert not await ends_within(5, slow)
        assert slow.cancelled()
        with pytest.raises(TimeoutError, match="of the body"):
            await ends_within(5, fail())

    run_virtual(play())


def test_tasks_that_lose_a_cancellation_end_as_well() -> None:
    async def play() -> None:
        task = asyncio.create_task(deaf())
        await asyncio.sleep(1)
        await end_tasks([task])
        assert task.cancelled()

    run_virtual(play())
