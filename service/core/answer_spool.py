"""Between the work and the reader of an answer: a slow reader costs disk, never a decoder and never much memory."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.codec.answer_json import decode_stored, encode_line
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Summary

_FRAME_OVERHEAD_BYTES = 512
_MASK_OVERHEAD_BYTES = 512
"""What Python holds around the run lengths of a frame and of a mask, roughly."""


@dataclass(frozen=True, slots=True)
class AnswerSpoolPolicy:
    """Frames wait in memory up to `memory_bytes`, then in a nameless file of at most `max_bytes` in `directory`."""

    directory: Path | None = None
    memory_bytes: int = 1024**2
    max_bytes: int = 1024**3


class AnswerSpool:
    """A queue of answer events for one reader, who takes each event once. Implements `ports.AnswerSink`."""

    def __init__(self, policy: AnswerSpoolPolicy) -> None:
        self._policy = policy
        self._started: ClipStarted | None = None
        self._memory: deque[tuple[FrameMasks, int]] = deque()
        self._memory_bytes = 0
        self._file: IO[bytes] | None = None
        self._num_in_file = 0
        self._read_at = 0
        self._end: Summary | Exception | None = None
        self._changed = asyncio.Event()

    def put(self, event: ClipStarted | FrameMasks) -> None:
        """Queue an event; raises `storage_full` when even the file is full."""
        if isinstance(event, ClipStarted):
            self._started = event
        else:
            self._put_frame(event)
        self._changed.set()

    def end(self, end: Summary | Exception) -> None:
        """Queue the end, a summary or what the reader shall meet; the first one counts."""
        if self._end is None:
            self._end = end
        self._changed.set()

    async def events(self) -> AsyncIterator[AnswerEvent]:
        """The events in order; raises the error that the work ended with, after what came before it."""
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
        """Let go of the file; idempotent."""
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put_frame(self, frame: FrameMasks) -> None:
        weight = _FRAME_OVERHEAD_BYTES + sum(
            _MASK_OVERHEAD_BYTES + len(mask.segmentation.counts) for mask in frame.masks
        )
        if not self._num_in_file and self._memory_bytes + weight <= self._policy.memory_bytes:
            self._memory.append((frame, weight))
            self._memory_bytes += weight
            return
        try:
            self._write(encode_line(frame))
        except OSError:
            raise ServiceError("storage_full", "There is no room left to hold the answer; try again later.") from None

    def _write(self, line: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._policy.directory, prefix="answer-")  # noqa: SIM115 - closed by close()
        end = self._file.seek(0, 2)
        if end + len(line) > self._policy.max_bytes:
            detail = f"The reader is too slow: {self._policy.max_bytes} bytes of its answer wait already."
            raise ServiceError("storage_full", detail)
        self._file.write(line)
        self._num_in_file += 1

    def _take(self) -> AnswerEvent | None:
        if self._started is not None:
            started, self._started = self._started, None
            return started
        if self._memory:
            frame, weight = self._memory.popleft()
            self._memory_bytes -= weight
            return frame
        if self._file is not None and self._num_in_file:
            return self._read(self._file)
        return None

    def _read(self, file: IO[bytes]) -> AnswerEvent:
        file.seek(self._read_at)
        line = file.readline()
        self._read_at += len(line)
        self._num_in_file -= 1
        if not self._num_in_file:
            file.seek(0)
            file.truncate()
            self._read_at = 0
        return next(decode_stored(line))
