"""Queue between the work and the reader of an answer, so that a slow reader occupies disk but no decoder."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.codec.answer_json import decode_stored_line, encode_line
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Summary
from service.media.spool import Spool

# Approximate bytes that Python uses for a frame and for a mask, beside the run lengths.
_FRAME_OVERHEAD_BYTES = 512
_MASK_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class AnswerSpoolPolicy:
    """Frames wait as objects up to `memory_bytes`, beyond that as lines in a file of at most `max_bytes`."""

    memory_bytes: int = 1024**2
    max_bytes: int = 1024**3


class AnswerSpool:
    """A queue of answer events for one reader, who takes each event once. Implements `ports.AnswerSink`.

    Args:
        policy: limits of this answer.
        room: limits of all answers together.
        party: owner of the answer, for fair sharing of the room.
    """

    def __init__(self, policy: AnswerSpoolPolicy, room: Spool, *, party: str = "") -> None:
        self._policy = policy
        self._room = room
        self._started: ClipStarted | None = None
        self._memory: deque[tuple[FrameMasks, int]] = deque()
        self._memory_bytes = 0
        self._file = room.open_answer(max_bytes=policy.max_bytes, party=party)
        self._num_in_file = 0
        self._end: Summary | Exception | None = None
        self._changed = asyncio.Event()

    def put(self, event: ClipStarted | FrameMasks) -> None:
        """Queue an event. Raises `storage_full` if the file, or the spool of all answers, is full."""
        if isinstance(event, ClipStarted):
            self._started = event
        else:
            self._put_frame(event)
        self._changed.set()

    def end(self, end: Summary | Exception) -> None:
        """Queue the end: the summary, or the error that the reader gets. Only the first call counts."""
        if self._end is None:
            self._end = end
        self._changed.set()

    async def events(self) -> AsyncIterator[AnswerEvent]:
        """Yield the events in order. Raises the error of the work after the events before it."""
        while True:
            self._changed.clear()
            while (event := self._take()) is not None:
                yield event
            if isinstance(self._end, Exception):
                raise self._end
            if self._end is not None:
                yield self._end
                return
            await self._changed.wait()

    def close(self) -> None:
        """Free memory and file. Idempotent."""
        self._memory.clear()
        self._room.release_memory(self._memory_bytes)
        self._memory_bytes = 0
        self._file.close()

    def _put_frame(self, frame: FrameMasks) -> None:
        weight = _FRAME_OVERHEAD_BYTES + sum(
            _MASK_OVERHEAD_BYTES + len(mask.segmentation.counts) for mask in frame.masks
        )
        fits = not self._num_in_file and self._memory_bytes + weight <= self._policy.memory_bytes
        if fits and self._room.reserve_memory(weight):
            self._memory.append((frame, weight))
            self._memory_bytes += weight
            return
        self._file.write(encode_line(frame))
        self._num_in_file += 1

    def _take(self) -> AnswerEvent | None:
        if self._started is not None:
            started, self._started = self._started, None
            return started
        if self._memory:
            frame, weight = self._memory.popleft()
            self._memory_bytes -= weight
            self._room.release_memory(weight)
            return frame
        if not self._num_in_file:
            return None
        event = decode_stored_line(self._file.readline())
        self._num_in_file -= 1
        if not self._num_in_file:
            self._file.clear()
        return event
