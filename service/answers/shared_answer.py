"""An answer for any number of readers, who read its lines from one file at their own pace."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial

from service.aio.turns import Turns
from service.aio.waits import bounded_wait
from service.codec.answer_json import decode_stored_line, encode_line
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Summary
from service.media.spool import Spool

logger = logging.getLogger(__name__)

# Encoded size in bytes of the latest events that are also kept in memory as objects. Readers that are further behind
# decode their lines from the file.
_RECENT_BYTES = 1024**2


class SharedAnswer:
    """An answer in progress that several readers and the cache share. Implements `ports.AnswerSink`.

    Args:
        room: folder of the file, where its bytes are counted.
        turns: turns of readers that are behind.
        party: caller whose bytes they are, for a fair share of the room.
        max_bytes: of the file; a larger answer fails as `storage_full`.

    Raises:
        ServiceError: `storage_full`, the file cannot be created.
    """

    def __init__(self, *, room: Spool, turns: Turns, party: str = "", max_bytes: int) -> None:
        try:
            room.directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=room.directory, prefix="shared-")  # noqa: SIM115 - see close()
        except OSError as error:
            raise room.note_failure(error) from error
        self._room = room
        self._turns = turns
        self._party = party
        self._held_bytes = 0
        self._max_bytes = max_bytes
        self._ends: list[int] = []  # of each line, in the file
        self._recent: deque[AnswerEvent] = deque()
        self._grown = asyncio.Event()
        self.error: ServiceError | None = None
        self.is_complete = False

    @property
    def num_bytes(self) -> int:
        """Number of encoded bytes so far."""
        return self._ends[-1] if self._ends else 0

    def put(self, event: ClipStarted | FrameMasks) -> None:
        """Add an event; raises `storage_full`."""
        self._append(event)
        self._notify()

    def end(self, end: Summary | Exception) -> None:
        """End the answer; only the first call counts. An unexpected exception is logged and becomes `internal`."""
        if self.is_complete or self.error is not None:
            return
        try:
            if isinstance(end, Summary):
                self._append(end)
                self.is_complete = True
        except ServiceError as error:
            end = error
        if isinstance(end, ServiceError):
            self.error = end
        elif isinstance(end, Exception):
            logger.error("a shared answer failed unexpectedly", exc_info=end)
            self.error = ServiceError("internal", "Something failed inside the service.")
        self._notify()

    async def read(self, deadline: Deadline, *, clock: Clock) -> AsyncGenerator[AnswerEvent, None]:
        """Yield all events from the first one on. Raises the error of the answer, or `deadline_exceeded`."""
        at = 0
        pace = self._turns.pace()
        while True:
            while at < len(self._ends):
                if at < len(self._ends) - len(self._recent):
                    await pace.step()
                yield self._event(at)
                at += 1
            if self.error is not None:
                raise self.error
            if self.is_complete:
                return
            late = partial(deadline_exceeded, "the wait for an equal request")
            async with bounded_wait(deadline.timeout_s(clock), late):
                await self._grown.wait()

    def content(self) -> bytes:
        """Return all lines."""
        return os.pread(self._file.fileno(), self.num_bytes, 0)

    def close(self) -> None:
        """Close the file and free its room. Idempotent."""
        self._recent.clear()
        self._file.close()
        self._room.release(self._held_bytes, party=self._party)
        self._held_bytes = 0

    def _event(self, number: int) -> AnswerEvent:
        num_old = len(self._ends) - len(self._recent)
        if number >= num_old:
            return self._recent[number - num_old]
        start = self._start_of(number)
        return decode_stored_line(os.pread(self._file.fileno(), self._ends[number] - start, start))

    def _append(self, event: AnswerEvent) -> None:
        line = encode_line(event)
        if self.num_bytes + len(line) > self._max_bytes:
            raise ServiceError("storage_full", "The answer is larger than the limit for stored answers.")
        self._room.reserve(len(line), party=self._party)
        self._held_bytes += len(line)
        try:
            os.pwrite(self._file.fileno(), line, self.num_bytes)
        except OSError as error:
            raise ServiceError("storage_full", "There is no disk space left for the answer.") from error
        self._ends.append(self.num_bytes + len(line))
        self._recent.append(event)
        while self.num_bytes - self._start_of(len(self._ends) - len(self._recent)) > _RECENT_BYTES:
            self._recent.popleft()

    def _start_of(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
