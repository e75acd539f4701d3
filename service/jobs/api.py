"""Submit, query, follow and delete jobs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

from service.aio.turns import Turns
from service.codec.answer_json import decode_stored
from service.codec.job_json import JobEvents
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent
from service.domain.result import FrameMasks, SoundEvent
from service.jobs.stored_form import is_for_readers
from service.jobs.uploads import stored_upload
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import JobStore
from service.storage.blobs import Blobs

# Seconds between polls of a job that is followed.
_FOLLOW_S = 0.5
# Retry delay in seconds while the queue is full: the default until a drain rate is measured, and bounds of a measured
# delay.
_FULL_RETRY_S = 30.0
_LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 600.0
# Share of the queue that should drain before refused callers retry. A guess: there may be several of them.
_RETRY_SHARE = 1 / 50
# Most events in the body of a webhook (about 200 bytes each); the job's result has all of them.
MAX_LISTED_EVENTS = 1000
_NO_CLIP = (
    "The clip of this job was deleted at its end. Submit the job with keep_clip=true, or send the clip to "
    "POST /segment with format=overlay."
)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Parameters of a job that are submitted with its upload."""

    request_id: str
    owner: str
    options: SegmentOptions
    may_use_cache: bool = True
    webhook: str | None = None
    result_url: str | None = None
    result_format: str = "json"
    keeps_clip: bool = False
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Event of a followed job. `number` is the number of answer lines so far; pass it as `after` to resume."""

    kind: Literal["progress", "frame", "event", "done", "failed"]
    number: int
    job: Job
    frame: FrameMasks | None = None
    event: SoundEvent | None = None


class Jobs:
    """Submits, queries and deletes jobs. `JobRunner` processes them.

    Args:
        store: stores the jobs.
        blobs: stores uploads and answers.
        max_waiting: most queued jobs.
        check_webhook: raises `bad_option` for a URL that is not allowed.
        check_result_url: raises `url_refused` for a URL that is not allowed.
        turns: turns of readers of answers.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: Blobs,
        *,
        max_waiting: int,
        check_webhook: Callable[[str], None],
        check_result_url: Callable[[str], None],
        turns: Turns,
        wall_clock: Clock,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._max_waiting = max_waiting
        self._check_webhook = check_webhook
        self._check_result_url = check_result_url
        self._turns = turns
        self._wall_clock = wall_clock
        self.seconds_per_job: Callable[[], float | None] = lambda: None
        self.on_added: Callable[[], None] = lambda: None
        self.on_erased: Callable[[str], None] = lambda job_id: None

    async def submit(self, upload: Upload, request: JobRequest) -> Job:
        """Store a complete upload and queue its job. Once this returns, the job will end as done or failed.

        Raises:
            ServiceError: `queue_full`, `bad_option` (webhook), `url_refused` (result_url), `storage_full`,
                `backend_down`.
        """
        if request.webhook is not None:
            self._check_webhook(request.webhook)
        if request.result_url is not None:
            self._check_result_url(request.result_url)
        if await self._store.num_waiting() >= self._max_waiting:
            detail = f"{self._max_waiting} jobs are already queued; try again later."
            raise ServiceError("queue_full", detail, retry_after_s=self._full_retry_s())
        job = Job(
            job_id=secrets.token_hex(16),
            owner=request.owner,
            request_id=request.request_id,
            options=request.options,
            created_at_s=self._wall_clock(),
            may_use_cache=request.may_use_cache,
            webhook=request.webhook,
            webhook_secret=None if request.webhook is None else secrets.token_hex(32),
            result_url=request.result_url,
            result_format=request.result_format,
            result_put=None if request.result_url is None else ResultPut("waiting"),
            keeps_clip=request.keeps_clip,
            traceparent=request.traceparent,
        )
        await self._blobs.put_file(job.upload_name(), upload.fd, num_bytes=upload.size)
        try:
            await self._store.add(job)
        except ServiceError:
            with suppress(ServiceError):
                await self._blobs.delete(job.upload_name())
            raise
        self.on_added()
        return job

    def _full_retry_s(self) -> float:
        """Return the seconds until `_RETRY_SHARE` of the queue has drained at the measured rate."""
        per_job_s = self.seconds_per_job()
        if per_job_s is None:
            return _FULL_RETRY_S
        return min(_MOST_RETRY_S, max(_LEAST_RETRY_S, per_job_s * max(1.0, self._max_waiting * _RETRY_SHARE)))

    async def get(self, job_id: str, *, owner: str) -> Job:
        """Return the job. Raises `job_expired`, or `job_not_found` (also for another caller's job)."""
        job = await self._store.get(job_id)
        if job is not None and job.owner == owner:
            return job
        if job is None and await self._store.has_expired(job_id):
            raise ServiceError("job_expired", "The job ended long ago and was deleted; submit it again.")
        raise ServiceError("job_not_found", "There is no such job, or another API key submitted it.")

    async def erase(self, job_id: str, *, owner: str) -> None:
        """Cancel the job and delete it with its upload and answer."""
        job = await self.get(job_id, owner=owner)
        await self._store.erase(job_id)
        self.on_erased(job_id)
        await self._blobs.delete_all(job.blob_prefix())

    async def answer(self, job: Job) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the answer of a finished job. Raises `job_not_ready`, or the error that the job failed with."""
        _check_done(job)
        for number in range(len(job.part_starts)):
            async for event in self._part(job, number):
                if is_for_readers(event, job.options):
                    yield event

    @asynccontextmanager
    async def clip(self, job: Job, spool: Spool, *, max_bytes: int) -> AsyncIterator[Upload]:
        """Yield the clip of a finished job, read back from the blob store; it is freed when the block ends.

        Raises:
            ServiceError: `job_not_ready`, the error that the job failed with, `not_acceptable` if the clip was not
                kept, `job_expired`, `backend_down`, `storage_full`.
        """
        _check_done(job)
        if not job.has_clip:
            raise ServiceError("not_acceptable", _NO_CLIP)
        async with AsyncExitStack() as stack:
            try:
                opened = stored_upload(job, self._blobs, spool, max_bytes=max_bytes)
                upload = await stack.enter_async_context(opened)
            except ServiceError as error:
                if error.code == "internal":
                    raise ServiceError("job_expired", "The job's clip was deleted.") from error
                raise
            yield upload

    async def sound_events(self, job: Job) -> JobEvents:
        """Return the events of a finished job, the first `MAX_LISTED_EVENTS` of them; raises `job_expired`."""
        listed: list[SoundEvent] = []
        num_events = 0
        for number in range(len(job.part_starts)):
            async for event in self._part(job, number):
                if isinstance(event, SoundEvent):
                    num_events += 1
                    listed.append(event)
            del listed[MAX_LISTED_EVENTS:]
        return JobEvents(tuple(listed), num_events)

    async def follow(self, job_id: str, *, owner: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield the events of a job after line `after` of its answer, until the job ends.

        If the job is deleted, the last event is `progress` with the state `cancelled`. If another process restarts the
        job, it writes the same lines again; lines that were already yielded are not repeated.
        """
        job = await self.get(job_id, owner=owner)
        reported: tuple[str, float] | None = None
        while True:
            async with aclosing(self._frames(job, after)) as frames:
                async for number, line in frames:
                    after = number
                    if isinstance(line, FrameMasks):
                        yield JobEvent("frame", number, job, frame=line)
                    else:
                        yield JobEvent("event", number, job, event=line)
            if job.has_ended:
                yield JobEvent("done" if job.state == "done" else "failed", max(after, job.num_lines), job)
                return
            if reported != (job.state, job.progress):
                reported = (job.state, job.progress)
                yield JobEvent("progress", after, job)
            await asyncio.sleep(_FOLLOW_S)
            found = await self._store.get(job_id)
            if found is None:
                cancelled = replace(job, state="cancelled", ended_at_s=self._wall_clock())
                yield JobEvent("progress", after, cancelled)
                return
            job = found

    async def _frames(self, job: Job, after: int) -> AsyncGenerator[tuple[int, FrameMasks | SoundEvent], None]:
        """Yield frames and events after line `after`. Line 1 is the clip, the last line the summary."""
        for number, start in enumerate(job.part_starts):
            following = job.part_starts[number + 1] if number + 1 < len(job.part_starts) else job.num_lines
            if following <= after:
                continue
            line = start
            async for event in self._part(job, number):
                line += 1
                if line <= after or not is_for_readers(event, job.options):
                    continue
                if isinstance(event, FrameMasks | SoundEvent):
                    yield line, event

    async def _part(self, job: Job, number: int) -> AsyncGenerator[AnswerEvent, None]:
        data = await self._blobs.get(job.part_name(number))
        if data is None:
            raise ServiceError("job_expired", "The job's answer was deleted.")
        async for event in self._turns.paced(decode_stored(data)):
            yield event


def _check_done(job: Job) -> None:
    """Raise `job_not_ready` before the end of a job, and a failed job's own error."""
    if job.failure is not None:
        raise job.failure
    if job.state != "done":
        raise ServiceError("job_not_ready", f"The job is {job.state}; ask again later.", retry_after_s=2.0)
