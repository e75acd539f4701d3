"""One computation, any number of readers: its lines go to a file that each reads at its own pace."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

from service.aio.tasks import end_tasks
from service.aio.waits import bounded_wait
from service.codec.answer_json import decode_stored, encode_line
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent

logger = logging.getLogger(__name__)


class SharedAnswer:
    """Runs an answer and hands its events to whoever joins; ends it when the last reader leaves.

    Args:
        events: the computation; closed at its end, however it comes.
        directory: for the file; None takes the system's.
        max_bytes: of the file; a larger answer fails as `storage_full`.
        max_kept_bytes: larger answers are not given to `keep`.
        keep: given all encoded events when they are complete.
        on_end: called when no one may join any more.
        on_done: called once, when the computation needs nothing any more.
    """

    def __init__(
        self,
        events: AsyncGenerator[AnswerEvent, None],
        *,
        directory: Path | None,
        max_bytes: int,
        max_kept_bytes: int,
        keep: Callable[[bytes], Awaitable[None]],
        on_end: Callable[[SharedAnswer], None],
        on_done: Callable[[], None],
    ) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, prefix="shared-")  # noqa: SIM115 - closed with the last reader
        self._max_bytes = max_bytes
        self._max_kept_bytes = max_kept_bytes
        self._keep = keep
        self._on_end = on_end
        self._ends: list[int] = []
        self._num_readers = 0
        self._grown = asyncio.Event()
        self._error: ServiceError | None = None
        self.is_complete = False
        self._work = asyncio.create_task(self._run(events))
        self._work.add_done_callback(lambda _: on_done())

    async def read(self, deadline: Deadline, *, clock: Clock) -> AsyncGenerator[AnswerEvent, None]:
        """The events from the first one on; raises what the computation raised, or `deadline_exceeded`."""
        self._num_readers += 1
        at = 0
        try:
            while True:
                while at < len(self._ends):
                    start = self._ends[at - 1] if at else 0
                    line = os.pread(self._file.fileno(), self._ends[at] - start, start)
                    at += 1
                    yield next(decode_stored(line))
                if self._error is not None:
                    raise self._error
                if self.is_complete:
                    return
                await self._next_line(deadline, clock)
        finally:
            await self._leave()

    async def _next_line(self, deadline: Deadline, clock: Clock) -> None:
        late = partial(deadline_exceeded, "the wait for an equal request")
        async with bounded_wait(deadline.timeout_s(clock), late):
            await self._grown.wait()

    async def _leave(self) -> None:
        self._num_readers -= 1
        if self._num_readers == 0:
            self._on_end(self)
            if self.is_complete:
                await asyncio.wait([self._work])
            else:
                await end_tasks([self._work])
            self._file.close()

    async def _run(self, events: AsyncGenerator[AnswerEvent, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._append(encode_line(event))
        except ServiceError as error:
            self._fail(error)
            return
        except Exception:
            logger.exception("a shared computation failed inside")
            self._fail(ServiceError("internal", "Something failed inside the service."))
            return
        self.is_complete = True
        self._notify()
        if self._num_bytes <= self._max_kept_bytes:
            await self._keep(os.pread(self._file.fileno(), self._num_bytes, 0))
        self._on_end(self)

    def _fail(self, error: ServiceError) -> None:
        self._error = error
        self._on_end(self)
        self._notify()

    @property
    def _num_bytes(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _append(self, line: bytes) -> None:
        if self._num_bytes + len(line) > self._max_bytes:
            raise ServiceError("storage_full", "The answer is over the limit of what can be held for its reader.")
        try:
            os.pwrite(self._file.fileno(), line, self._num_bytes)
        except OSError as error:
            raise ServiceError("storage_full", "There is no room left to hold the answer.") from error
        self._ends.append(self._num_bytes + len(line))
        self._notify()

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
