"""Put the result of a finished job to the URL that its caller gave, in the format that the caller chose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from service.core.answer_document import MEMORY_BYTES, AnswerDocument
from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.domain.request import AnswerEvent
from service.formats.choose import FORMATS, MEDIA_TYPES, formatter_of
from service.media.spool import Spool
from service.media.spool_file import SpoolFile
from service.outbound.put import PutError, Putter

logger = logging.getLogger(__name__)

# Formats that a result can be put in: `sse` is no file, and `overlay` is drawn on the clip, which is deleted by then
# unless the job keeps it.
RESULT_FORMATS = tuple(name for name in FORMATS if name not in ("sse", "overlay"))
# Bytes that are read from the spool at once.
_BLOCK_BYTES = 256 * 1024
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ResultPolicy:
    """Limits of a result that is sent.

    Attributes:
        max_bytes: of a result.
        delays_s: delays before each of the retries.
    """

    max_bytes: int = 512 * 1024**2
    delays_s: tuple[float, ...] = (1.0, 5.0, 25.0)


class ResultSender:
    """Sends results of finished jobs.

    Args:
        answer_of: returns the stored answer of a job.
        putter: makes one attempt.
        spool: where a result waits while it is sent.
        policy: limits.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        answer_of: Callable[[Job], AsyncGenerator[AnswerEvent, None]],
        putter: Putter,
        spool: Spool,
        policy: ResultPolicy,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._answer_of = answer_of
        self._putter = putter
        self._spool = spool
        self._policy = policy
        self._sleep = sleep

    async def send(self, job: Job) -> ResultPut:
        """Return how it went; failures that a retry can help are retried."""
        failure = "The job failed, so there is no result."
        if job.state == "done":
            for delay_s in (*self._policy.delays_s, None):
                try:
                    await self._send_once(job)
                    return ResultPut("sent")
                except PutError as error:
                    failure, may_retry = f"result_url: {error}.", error.may_retry
                except ServiceError as error:
                    failure, may_retry = error.detail, error.spec.is_retryable
                if delay_s is None or not may_retry:
                    break
                await self._sleep(delay_s)
            logger.warning("a result could not be sent", extra={"job_id": job.job_id, "reason": failure})
        return ResultPut("failed", failure)

    async def _send_once(self, job: Job) -> None:
        assert job.result_url is not None, "the job has no result_url"
        max_bytes = self._policy.max_bytes
        formatter = formatter_of(job.result_format, is_compressed=True, max_bytes=max_bytes)
        with self._spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=job.owner) as file:
            document = AnswerDocument(formatter, file, max_bytes=max_bytes)
            async with aclosing(self._answer_of(job)) as events:
                async for event in events:
                    await document.add(event)
            opening = formatter.opening()
            await self._putter.put(
                job.result_url,
                _blocks(opening, file),
                num_bytes=len(opening) + file.size,
                media_type=MEDIA_TYPES[job.result_format],
            )


async def _blocks(opening: bytes, file: SpoolFile) -> AsyncIterator[bytes]:
    yield opening
    while block := file.read(_BLOCK_BYTES):
        yield block
