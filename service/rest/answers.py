"""The two media types of an answer: one JSON document, or lines as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

from service.codec.answer_json import (
    HEARTBEAT_LINE,
    encode_document_end,
    encode_document_start,
    encode_error_line,
    encode_frame,
    encode_line,
)
from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.media.spool_file import SpoolFile
from service.postprocess.events import event_order
from service.rest.errors import Problem
from service.rest.parts import RestParts
from service.rest.request_head import JSON_TYPE, NDJSON_TYPE, SSE_TYPE
from service.rest.sender import Sender

HEARTBEAT_S = 10.0
"""A heartbeat line is sent after this long without another line."""
# An answer leaves memory for the disk at this size.
MEMORY_BYTES = 1024**2
_Event = TypeVar("_Event")


async def answer_json(
    events: AsyncGenerator[AnswerEvent, None],
    sender: Sender,
    record: RequestRecord,
    *,
    parts: RestParts,
) -> None:
    """Collect the whole answer (on disk beyond 1 MiB), then send it; raises `answer_too_large`, `storage_full`."""
    max_bytes, party = parts.policy.max_answer_bytes, record.caller.party
    with parts.spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=party) as file:
        document = _Document(file, max_bytes=max_bytes)
        async with aclosing(events):
            async for event in events:
                document.add(event)
        opening, closing = document.opening_and_closing()
        note(document.summary, record)
        length = len(opening) + file.size + len(closing)
        await sender.start({"Content-Type": JSON_TYPE, "Content-Length": str(length)})
        await sender.write(opening)
        await sender.write_file(file)
        await sender.write(closing)
        await sender.end()


class _Document:
    """One JSON document whose frames are in a file; what comes before and after them is known at the end."""

    started: ClipStarted
    summary: Summary

    def __init__(self, file: SpoolFile, *, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._events: list[SoundEvent] = []

    def add(self, event: AnswerEvent) -> None:
        """Take the next event; raises `answer_too_large`, `storage_full`."""
        if isinstance(event, ClipStarted):
            self.started = event
        elif isinstance(event, Summary):
            self.summary = event
        elif isinstance(event, SoundEvent):
            self._events.append(event)
        else:
            self._add_frame(event)

    def opening_and_closing(self) -> tuple[bytes, bytes]:
        """Return what comes before and after the frames, once all events have been added."""
        opening = encode_document_start(self.started, self.summary)
        return opening, encode_document_end(self.summary, sorted(self._events, key=event_order))

    def _add_frame(self, frame: FrameMasks) -> None:
        line = (b"," if self._file.size else b"") + encode_frame(frame)
        if self._file.size + len(line) > self._max_bytes:
            detail = (
                f"The answer is over the limit of {self._max_bytes} bytes for one JSON document; "
                f"ask for {NDJSON_TYPE}, fewer samples or size=model."
            )
            raise ServiceError("answer_too_large", detail)
        self._file.write(line)


async def answer_lines(
    events: AsyncGenerator[AnswerEvent, None], sender: Sender, record: RequestRecord, *, is_sse: bool = False
) -> None:
    """Send lines as they are ready, as NDJSON or as server-sent events.

    Nothing is sent before the first frame, so earlier failures keep their status.
    """
    media_type = SSE_TYPE if is_sse else NDJSON_TYPE
    async with aclosing(events):
        started = await anext(events)
        first = await anext(events)
        assert isinstance(started, ClipStarted)
        await sender.start({"Content-Type": media_type, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        await _write_event(started, sender, record)
        await _write_event(first, sender, record)
        async with aclosing(with_heartbeats(events, silence_s=HEARTBEAT_S)) as rest:
            async for event in rest:
                await _write_event(event, sender, record)
        await sender.end()


async def end_with_error(problem: Problem, sender: Sender) -> None:
    """End a started answer: lines get an error line, a document is cut, so that no one takes it for a whole one."""
    if sender.media_type not in (NDJSON_TYPE, SSE_TYPE) or problem.error.code == "client_gone":
        sender.cut()
        return
    if problem.error.code == "slow_reader":
        sender.end_without_waiting(_framed(encode_error_line(problem.document()), sender))
        return
    try:
        await sender.write(_framed(encode_error_line(problem.document()), sender))
        await sender.end()
    except ServiceError:
        sender.cut()


async def _write_event(event: AnswerEvent | None, sender: Sender, record: RequestRecord) -> None:
    if isinstance(event, Summary):
        note(event, record)
    await sender.write(_framed(HEARTBEAT_LINE if event is None else encode_line(event), sender))


def _framed(line: bytes, sender: Sender) -> bytes:
    """Return a line as the stream's media type wants it: a server-sent event is named after the line's `type`."""
    if sender.media_type != SSE_TYPE:
        return line
    name = line.partition(b'{"type":"')[2].partition(b'"')[0]
    return b"event: " + name + b"\ndata: " + line + b"\n"


def note(summary: Summary, record: RequestRecord) -> None:
    """Note what an answer's end tells."""
    record.num_samples = summary.num_samples
    record.timings_s = summary.timings_s
    record.span.set(is_cached=summary.cached)


async def with_heartbeats(events: AsyncIterator[_Event], *, silence_s: float) -> AsyncGenerator[_Event | None, None]:
    """The same events, and None whenever `silence_s` passed without one."""
    waiting = asyncio.ensure_future(_next_event(events))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=silence_s)
            if not done:
                yield None
                continue
            event = waiting.result()
            if event is None:
                return
            yield event
            waiting = asyncio.ensure_future(_next_event(events))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _next_event(events: AsyncIterator[_Event]) -> _Event | None:
    return await anext(events, None)
