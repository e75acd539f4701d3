"""Awaits that must not outlive a request's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError


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


@contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Around a library's awaits: a cancellation that got lost inside is raised when they are over.

    Python 3.11's `asyncio.wait_for`, through which redis-py sends, answers with its result when result and cancellation
    come together. A deadline that fires in that moment would be lost, and with it the end of whoever waits next.
    """
    task = asyncio.current_task()
    num_before = 0 if task is None else task.cancelling()
    try:
        yield
    except asyncio.CancelledError:
        raise
    except Exception:
        if task is not None and task.cancelling() > num_before:
            raise asyncio.CancelledError from None
        raise
    if task is not None and task.cancelling() > num_before:
        raise asyncio.CancelledError
