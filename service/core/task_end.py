"""Ending tasks for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

_AGAIN_S = 0.1


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended; their exceptions are theirs.

    One cancellation can get lost inside a library (`asyncio.wait_for` of Python 3.11 swallows one that arrives together
    with its result; redis-py was seen to), so it is repeated until it is heeded.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
