"""Answers that are sent line by line while they are computed: NDJSON and server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from service.codec.answer_json import HEARTBEAT_LINE, encode_error_line, encode_line
from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import Summary
from service.rest.errors import Problem
from service.rest.requests.request_head import NDJSON_TYPE, SSE_TYPE
from service.rest.responses.sender import Sender


async def send_lines(
    events: AsyncGenerator[AnswerEvent, None],
    sender: Sender,
    record: RequestRecord,
    *,
    is_sse: bool = False,
    is_compressed: bool = True,
) -> None:
    """Send lines as they are ready, as NDJSON or as server-sent events.

    Nothing is sent before the first frame, so earlier failures keep their status.

    Args:
        events: of the answer.
        sender: where they go.
        record: of the request.
        is_sse: server-sent events, else NDJSON.
        is_compressed: run lengths as COCO's strings, else as lists of numbers.
    """
    media_type = SSE_TYPE if is_sse else NDJSON_TYPE
    async with aclosing(events):
        started = await anext(events)
        first = await anext(events)
        assert isinstance(started, ClipStarted)
        await sender.start({"Content-Type": media_type, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        for early in (started, first):
            await _write_event(early, sender, record, is_compressed=is_compressed)
        async with sender.beating(_framed(HEARTBEAT_LINE, sender)):
            async for event in events:
                await _write_event(event, sender, record, is_compressed=is_compressed)
        await sender.end()


async def end_with_error(problem: Problem, sender: Sender) -> None:
    """End a started answer: a stream gets an error line; a document is cut, so that it cannot look complete."""
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


async def _write_event(event: AnswerEvent, sender: Sender, record: RequestRecord, *, is_compressed: bool) -> None:
    if isinstance(event, Summary):
        record_end(event, record)
    await sender.write(_framed(await _in_thread_unless(is_compressed, encode_line, event), sender))


async def _in_thread_unless(is_compressed: bool, encode: Callable[..., bytes], event: AnswerEvent) -> bytes:
    """Encode an event. Lists of run lengths take milliseconds per mask, so they are encoded in a thread."""
    if is_compressed:
        return encode(event)
    return await asyncio.to_thread(encode, event, is_compressed=False)


def _framed(line: bytes, sender: Sender) -> bytes:
    """Return a line as the media type requires: a server-sent event is named after the line's `type`."""
    if sender.media_type != SSE_TYPE:
        return line
    name = line.partition(b'{"type":"')[2].partition(b'"')[0]
    return b"event: " + name + b"\ndata: " + line + b"\n"


def record_end(summary: Summary, record: RequestRecord) -> None:
    """Copy samples, timings and whether the answer was cached from an answer's end to the request's record."""
    record.num_samples = summary.num_samples
    record.timings_s = summary.timings_s
    record.span.set(is_cached=summary.cached)
