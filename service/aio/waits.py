"""Awaits that end in time: with an error of the caller's choice, with a yes or no, or on cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.aio.tasks import end_tasks

_R = TypeVar("_R")


@asynccontextmanager
async def bounded_wait(timeout_s: float | None, error: Callable[[], Exception]) -> AsyncIterator[None]:
    """Around awaits: raise `error()` when `timeout_s` passes inside.

    Do not put it around a `yield` of an asynchronous generator, because the reader's time would count.

    Args:
        timeout_s: seconds; None waits for ever.
        error: makes the exception, once the time has passed.

    Raises:
        Exception: what `error` returns. A TimeoutError of the body passes unchanged.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise error() from None


async def ends_within(timeout_s: float | None, awaitable: Awaitable[object]) -> bool:
    """Wait for something, at most `timeout_s` seconds (None: for ever); False if it was cancelled for taking longer."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        return False
    return True


async def cancel_reliably(call: Coroutine[Any, Any, _R]) -> _R:
    """Await a library's call that may lose a cancellation, and end soon after being cancelled all the same.

    In Python 3.11 `asyncio.wait_for`, through which redis-py sends, returns its result when result and cancellation
    arrive together; redis-py then waits for a reply up to its own timeout, whatever deadline has passed.
    """
    running = asyncio.create_task(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await end_tasks([running])
        raise
