"""How tasks end: for good, and with which error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

_AGAIN_S = 0.1


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended; their exceptions are theirs.

    One cancellation can get lost inside a library (`asyncio.wait_for` of Python 3.11 swallows one that arrives together
    with its result; redis-py was seen to), so it is repeated until it is heeded.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)


def first_error(group: ExceptionGroup[Exception], preferred: type[Exception]) -> Exception:
    """Return the first error of a task group that is `preferred`, else its first error."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, preferred)), leaves[0])


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
