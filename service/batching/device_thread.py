"""The one OS thread that owns the device: everything that touches the predictor runs here, one thing at a time."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from service.domain.deadline import Clock
from service.domain.errors import ServiceError

logger = logging.getLogger(__name__)

HANDOFF_SIZE = 2
"""One call under way and one that waits: the device never idles for a hand-over while work is there."""

_T = TypeVar("_T")


class DeviceThread:
    """Runs calls in order on a daemon thread, so that a wedged device cannot keep the process from ending."""

    def __init__(self, *, clock: Clock, stuck_after_s: float, idle_check: Callable[[], object], idle_s: float) -> None:
        """Make the thread; `start` starts it.

        Args:
            clock: seconds, monotonic.
            stuck_after_s: a call longer than this makes the thread unhealthy until it is over.
            idle_check: called on the thread after each `idle_s` seconds without work (asks the device's health).
            idle_s: see `idle_check`.
        """
        self._clock = clock
        self._stuck_after_s = stuck_after_s
        self._idle_check = idle_check
        self._idle_s = idle_s
        self._calls: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue(HANDOFF_SIZE)
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def run(self, call: Callable[[], _T]) -> _T:
        """The call's result, computed on the device thread; its exceptions are raised here.

        Raises:
            ServiceError: `queue_full` when two calls wait already; the batcher never sends so many.
        """
        future: Future[_T] = Future()
        try:
            self._calls.put_nowait((future, call))
        except queue.Full:
            raise ServiceError("queue_full", "The device has more work than it can take.") from None
        return await asyncio.wrap_future(future)

    def is_healthy(self) -> bool:
        """Whether the thread lives and its present call is not overdue."""
        busy_since_s = self._busy_since_s
        is_stuck = busy_since_s is not None and self._clock() - busy_since_s > self._stuck_after_s
        return self._thread.is_alive() and not is_stuck

    async def stop(self, *, timeout_s: float) -> bool:
        """End the thread after its present call, cancel what waits. False if it did not end in time."""
        while True:
            try:
                entry = self._calls.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[0].cancel()
        if not self._thread.is_alive():
            return True
        self._calls.put_nowait(None)
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            try:
                entry = self._calls.get(timeout=self._idle_s)
            except queue.Empty:
                _settle(Future(), self._idle_check)
                continue
            if entry is None:
                return
            future, call = entry
            if future.set_running_or_notify_cancel():
                self._busy_since_s = self._clock()
                _settle(future, call)
                self._busy_since_s = None


def _settle(future: Future[_T], call: Callable[[], _T]) -> None:
    """Run a call; the root of the thread, so whatever it raises goes to the caller and the thread lives on."""
    try:
        result = call()
    except Exception as failure:
        future.set_exception(failure)
    else:
        future.set_result(result)
