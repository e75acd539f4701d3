"""Interrupt a block of code from outside with a given exception, as `asyncio.timeout` does with TimeoutError."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Interrupt:
    """Context manager whose body can be interrupted: `fire(error)` cancels the body and raises `error` instead.

    Enter it inside a task, else RuntimeError is raised. Cancellation from elsewhere propagates unchanged.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: Exception | None = None

    def __enter__(self) -> Interrupt:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("an Interrupt is entered inside a task")
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None or self._error is None:
            return
        is_ours = task.uncancel() <= self._cancelling
        if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._error from None

    def fire(self, error: Exception) -> None:
        """Interrupt the body with `error`. Later calls, and calls after the body has ended, have no effect."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()
