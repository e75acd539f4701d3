"""Timeouts with a custom error or a boolean result, and calls that can always be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.aio.tasks import end_tasks

_R = TypeVar("_R")


@asynccontextmanager
async def bounded_wait(timeout_s: float | None, error: Callable[[], Exception]) -> AsyncIterator[None]:
    """Raise `error()` if the body takes longer than `timeout_s`.

    Do not wrap a `yield` of an asynchronous generator: the time that the consumer takes would count.

    Args:
        timeout_s: seconds; None means no timeout.
        error: creates the exception after the timeout.

    Raises:
        Exception: the one that `error` returns. A TimeoutError of the body propagates unchanged.
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
    """Await with a timeout in seconds (None: no timeout). Return False if the timeout cancelled the awaitable."""
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
    """Await a library call that may lose a cancellation, and still return promptly when cancelled.

    In Python 3.11 `asyncio.wait_for`, through which redis-py sends, returns its result when result and cancellation
    arrive together; redis-py then waits for a reply up to its own timeout, whatever deadline has passed.
    """
    running = asyncio.create_task(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await end_tasks([running])
        raise
