"""End a block of code from outside with a given exception, as `asyncio.timeout` ends one with TimeoutError."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Interrupt:
    """A `with` body that others can end: `fire(error)` cancels what it awaits and raises `error` in its place.

    To be entered inside a task. Cancellation that comes from elsewhere passes through unchanged.
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
        """End the body with `error`; only the first call counts, and none after the body has ended."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()
