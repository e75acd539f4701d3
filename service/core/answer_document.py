"""An answer as one file: the events of the answer through a formatter into a file of the spool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent
from service.domain.result import Summary
from service.formats.formatter import Formatter
from service.media.spool_file import SpoolFile

# An answer that is sent as a whole leaves memory for the disk at this size in bytes.
MEMORY_BYTES = 1024**2


async def write_document(
    events: AsyncGenerator[AnswerEvent, None], formatter: Formatter, file: SpoolFile, *, max_bytes: int
) -> Summary | None:
    """Write an answer into a file. What `formatter.opening` then returns goes before it.

    Returns:
        The end of the answer.

    Raises:
        ServiceError: of `events`; `answer_too_large`, `storage_full`.
    """
    summary: Summary | None = None
    async with aclosing(events):
        async for event in events:
            data = await asyncio.to_thread(formatter.add, event) if formatter.is_slow else formatter.add(event)
            if file.size + len(data) > max_bytes:
                raise too_large(max_bytes)
            file.write(data)
            if isinstance(event, Summary):
                summary = event
    return summary


def too_large(max_bytes: int) -> ServiceError:
    """Return the error of an answer that is over the limit of one document."""
    detail = (
        f"The answer is over the limit of {max_bytes} bytes for one document; "
        "ask for application/x-ndjson, fewer samples or size=model."
    )
    return ServiceError("answer_too_large", detail)
