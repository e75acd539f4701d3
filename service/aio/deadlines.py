"""Awaits that must not outlive a request's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.aio.tasks import end_tasks
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError

_R = TypeVar("_R")


@asynccontextmanager
async def within(deadline: Deadline, *, clock: Clock, stage: str) -> AsyncIterator[None]:
    """Around awaits; raises `deadline_exceeded`, naming the stage, when the deadline passes inside.

    Never around a `yield` of an asynchronous generator: the time that its reader takes is not the stage's.
    """
    limit = asyncio.timeout(deadline.timeout_s(clock))
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise ServiceError("deadline_exceeded", f"The deadline passed during {stage}; allow more time.") from None


async def heeding(call: Coroutine[Any, Any, _R]) -> _R:
    """A library's call, which ends soon after its caller is cancelled, even if it loses the cancellation once.

    Python 3.11's `asyncio.wait_for`, through which redis-py sends, answers with its result when result and cancellation
    come together; redis-py then waits for a reply for its own seconds, whatever deadline had passed.
    """
    running = asyncio.create_task(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await end_tasks([running])
        raise
