"""Cancellations that libraries lose."""

from __future__ import annotations

import asyncio

import pytest
from support.virtual_time import run_virtual

from service.core.task_end import end_tasks
from service.core.within import heeding_cancellation


async def deaf(*, error: Exception | None = None) -> str:
    """As `asyncio.wait_for` of Python 3.11 where its result comes together with the cancellation."""
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        if error is not None:
            raise error from None
    return "result"


@pytest.mark.parametrize("error", [None, ValueError("lost link")])
def test_a_lost_deadline_is_met_when_the_library_returns(error: Exception | None) -> None:
    async def ask() -> None:
        async with asyncio.timeout(5):
            with heeding_cancellation():
                await deaf(error=error)
            await asyncio.sleep(3600)

    async def play() -> None:
        with pytest.raises(TimeoutError):
            await ask()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(play())


def test_what_is_not_cancelled_passes_unchanged() -> None:
    async def ask() -> None:
        with heeding_cancellation():
            await asyncio.sleep(1)
        with pytest.raises(ValueError, match="of the library"), heeding_cancellation():
            raise ValueError("of the library")
        with pytest.raises(TimeoutError), heeding_cancellation():
            async with asyncio.timeout(1):
                await asyncio.sleep(2)

    run_virtual(ask())


def test_two_deadlines_at_once_end_a_group() -> None:
    """The parent's and the child's deadline are the same: the child is cancelled twice before it runs."""

    async def child() -> None:
        async with asyncio.timeout(5):
            with heeding_cancellation():
                await deaf()
            await asyncio.Event().wait()

    async def parent() -> None:
        async with asyncio.timeout(5):
            async with asyncio.TaskGroup() as group:
                group.create_task(child())

    with pytest.raises((TimeoutError, BaseExceptionGroup)):
        run_virtual(parent())


def test_tasks_that_lose_a_cancellation_end_as_well() -> None:
    async def ask() -> None:
        async def twice() -> None:
            await deaf()
            await asyncio.sleep(3600)

        task = asyncio.create_task(twice())
        await asyncio.sleep(1)
        await end_tasks([task])
        assert task.cancelled()

    run_virtual(ask())
