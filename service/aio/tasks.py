"""Cancel tasks reliably, and pick one error out of an exception group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

# Seconds between repeated cancellations of a task that is still running.
_AGAIN_S = 0.1


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended. Their exceptions are not raised here.

    A library can lose a cancellation: `asyncio.wait_for` of Python 3.11 swallows one that arrives together with its
    result, and redis-py uses it. The cancellation is therefore repeated until the task ends.
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
