"""An answer as one file: the events of the answer through a formatter into a file of the spool."""

from __future__ import annotations

import asyncio

from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent
from service.formats.formatter import Formatter
from service.media.spool_file import SpoolFile

# An answer that is sent as a whole leaves memory for the disk at this size in bytes.
MEMORY_BYTES = 1024**2


class AnswerDocument:
    """An answer that becomes one file, event by event. What `formatter.opening` returns at the end goes before it.

    Args:
        formatter: makes bytes of events.
        file: takes them.
        max_bytes: largest document.
    """

    def __init__(self, formatter: Formatter, file: SpoolFile, *, max_bytes: int) -> None:
        self._formatter = formatter
        self._file = file
        self._max_bytes = max_bytes

    async def add(self, event: AnswerEvent) -> None:
        """Write an event. Raises `answer_too_large`, `storage_full`."""
        make = self._formatter.add
        data = await asyncio.to_thread(make, event) if self._formatter.is_slow else make(event)
        if self._file.size + len(data) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._file.write(data)


def too_large(max_bytes: int) -> ServiceError:
    """Return the error of an answer that is over the limit of one document."""
    detail = (
        f"The answer is over the limit of {max_bytes} bytes for one document; "
        "ask for application/x-ndjson, fewer samples or size=model."
    )
    return ServiceError("answer_too_large", detail)
