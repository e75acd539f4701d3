"""Awaits that must not outlive a request's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
