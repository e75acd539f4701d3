"""Put the result of a finished job to the URL that its caller gave, in the format that the caller chose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from service.core.answer_document import MEMORY_BYTES, AnswerDocument
from service.core.overlay_file import DrawOverlay, write_overlay
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.formats.choose import FORMATS, MEDIA_TYPES, formatter_of
from service.jobs.api import Jobs
from service.media.spool import Spool
from service.media.spool_file import SpoolFile
from service.outbound.put import PutError, Putter

logger = logging.getLogger(__name__)

# Formats that a result can be put in: `sse` is no file.
RESULT_FORMATS = tuple(name for name in FORMATS if name != "sse")
# Bytes that are read from the spool at once.
_BLOCK_BYTES = 256 * 1024
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ResultPolicy:
    """Limits of a result that is sent.

    Attributes:
        max_bytes: of a result.
        max_upload_bytes: largest clip that an overlay is drawn on.
        draw_s: longest time that drawing an overlay may take, with the wait for a decoder.
        delays_s: delays before each of the retries.
    """

    max_bytes: int = 512 * 1024**2
    max_upload_bytes: int = 256 * 1024**2
    draw_s: float = 3600.0
    delays_s: tuple[float, ...] = (1.0, 5.0, 25.0)


class ResultSender:
    """Sends results of finished jobs.

    Overlays are drawn one after the other: each occupies a decoder for as long as its clip takes, and results are not
    urgent.

    Args:
        jobs: returns answers and clips of jobs.
        draw: draws overlays.
        putter: makes one attempt.
        spool: where a result waits while it is sent.
        policy: limits.
        clock: of the deadlines.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        jobs: Jobs,
        draw: DrawOverlay,
        putter: Putter,
        spool: Spool,
        policy: ResultPolicy,
        *,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._jobs = jobs
        self._draw = draw
        self._putter = putter
        self._spool = spool
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._drawing = asyncio.Lock()

    async def send(self, job: Job) -> ResultPut:
        """Return how it went; failures that a retry can help are retried. What was written once is kept for a retry."""
        if job.state != "done":
            return ResultPut("failed", "The job failed, so there is no result.")
        max_bytes = self._policy.max_bytes
        with self._spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=job.owner) as file:
            opening: bytes | None = None
            for delay_s in (*self._policy.delays_s, None):
                try:
                    if opening is None:
                        file.clear()
                        opening = await self._write(job, file)
                    await self._put(job, opening, file)
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

    async def _write(self, job: Job, file: SpoolFile) -> bytes:
        """Write the result; return what goes before it."""
        if job.result_format == "overlay":
            return await self._write_overlay(job, file)
        return await self._write_document(job, file)

    async def _put(self, job: Job, opening: bytes, file: SpoolFile) -> None:
        assert job.result_url is not None, "the job has no result_url"
        file.rewind()
        num_bytes = len(opening) + file.size
        media_type = MEDIA_TYPES[job.result_format]
        await self._putter.put(job.result_url, _blocks(opening, file), num_bytes=num_bytes, media_type=media_type)

    async def _write_document(self, job: Job, file: SpoolFile) -> bytes:
        """Write a format that is made of the answer alone."""
        max_bytes = self._policy.max_bytes
        formatter = formatter_of(job.result_format, is_compressed=True, max_bytes=max_bytes)
        document = AnswerDocument(formatter, file, max_bytes=max_bytes)
        async with aclosing(self._jobs.answer(job)) as events:
            async for event in events:
                await document.add(event)
        return formatter.opening()

    async def _write_overlay(self, job: Job, file: SpoolFile) -> bytes:
        policy = self._policy
        async with self._drawing, self._jobs.clip(job, self._spool, max_bytes=policy.max_upload_bytes) as clip:
            await write_overlay(
                self._jobs.answer(job),
                clip,
                file,
                draw=self._draw,
                max_bytes=policy.max_bytes,
                deadline=Deadline.after(policy.draw_s, clock=self._clock),
            )
        return b""


async def _blocks(opening: bytes, file: SpoolFile) -> AsyncIterator[bytes]:
    yield opening
    while block := file.read(_BLOCK_BYTES):
        yield block
