"""Works on jobs: claim one, answer it into parts, tell its webhook; give it back when this process ends."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from service.core.idempotency import ANSWERS
from service.core.job_lines import encode_line
from service.core.journal import Journal, RequestRecord
from service.core.pipeline import Answering
from service.core.task_end import end_tasks
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Summary
from service.media.upload import Spool, Upload
from service.ports import BlobStore, JobStore

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_RENEWALS_PER_LEASE = 5
MAX_DEATHS = 5
"""A job whose process died so often is what kills them. Workers have a stricter rule for single chunks."""


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """How jobs are worked on.

    Attributes:
        lease_s: a job that is not saved for this long belongs to whoever claims it.
        num_parallel: jobs of this process at once; their samples yield to people waiting anyway.
        flush_bytes, flush_s: a part of the answer is stored at this size or age.
        poll_s: how often the queue is looked at when nothing wakes the runner.
        retry_for_s: failures that trying again can help are tried again while the job is younger than this.
        sweep_s: how often ended jobs are looked through.
        keep_answers_s: remembered answers of idempotency keys are kept for this long.
    """

    lease_s: float
    num_parallel: int = 2
    flush_bytes: int = 256 * 1024
    flush_s: float = 1.0
    poll_s: float = 1.0
    retry_for_s: float = 3600.0
    sweep_s: float = 30.0
    keep_answers_s: float = 86_400.0


class _LostError(Exception):
    """The job was erased, or is another process's by now."""


@dataclass(frozen=True, slots=True)
class JobParts:
    """What a runner works with. `tell` delivers a job's end to its webhook and does not raise."""

    store: JobStore
    blobs: BlobStore
    answering: Answering
    spool: Spool
    journal: Journal
    tell: Callable[[Job], Awaitable[None]]


class JobRunner:
    """Works on jobs until closed.

    Args:
        parts: what it works with.
        policy: how.
        max_upload_bytes: bound of an upload that is read back.
        clock: seconds, monotonic.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self, parts: JobParts, policy: JobPolicy, *, max_upload_bytes: int, clock: Clock, wall_clock: Clock
    ) -> None:
        self._parts = parts
        self._policy = policy
        self._max_upload_bytes = max_upload_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._holder = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._held: dict[str, _Held] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to claim jobs."""
        self._tasks = [asyncio.create_task(self._work_on_jobs(), name="jobs") for _ in range(self._policy.num_parallel)]
        self._tasks.append(asyncio.create_task(self._sweep(), name="sweep jobs"))

    async def aclose(self) -> None:
        """Give running jobs back: another process, or the next life of this one, begins them anew."""
        await end_tasks(self._tasks)

    def wake(self) -> None:
        """There is a new job."""
        self._wake.set()

    def drop(self, job_id: str) -> None:
        """The job was erased: stop its work, if it is here."""
        if job_id in self._held:
            self._held[job_id].lose()

    async def _work_on_jobs(self) -> None:
        while True:
            try:
                job = await self._parts.store.claim(self._holder)
                if job is None:
                    await self._wait()
                else:
                    await self._work(job)
            except ServiceError:
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("working on jobs failed")
                await asyncio.sleep(_RETRY_S)

    async def _wait(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(self._policy.poll_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _work(self, job: Job) -> None:
        """One claimed job to its end, or back to the queue."""
        held = _Held(job, self._parts.store, self._holder)
        self._held[job.job_id] = held
        held.work = asyncio.create_task(self._run(held), name=f"job {job.job_id}")
        keeping = asyncio.create_task(self._keep(held))
        try:
            await asyncio.wait([held.work])
            await self._conclude(held, held.work)
        except asyncio.CancelledError:
            await end_tasks([held.work])
            if not held.is_lost:
                await self._give_back(held)
            raise
        finally:
            del self._held[job.job_id]
            await end_tasks([keeping])

    async def _conclude(self, held: _Held, work: asyncio.Task[None]) -> None:
        if held.is_lost:
            return
        error = None if work.cancelled() else work.exception()
        if work.cancelled() or isinstance(error, _LostError):
            return
        if isinstance(error, ServiceError) and self._may_try_again(held.job, error):
            logger.info("job is tried again", extra={"code": error.code})
            await asyncio.sleep(min(error.retry_after_s or _RETRY_S, self._policy.lease_s))
            await self._give_back(held)
            return
        if error is not None:
            logger.error("a job failed inside", exc_info=error)
            await self._end(held, state="failed", code="internal", detail="Something failed inside the service.")
        await self._parts.store.settle(held.job, holder=self._holder)

    def _may_try_again(self, job: Job, error: ServiceError) -> bool:
        return error.spec.is_retryable and self._wall_clock() - job.created_at_s < self._policy.retry_for_s

    async def _give_back(self, held: _Held) -> None:
        try:
            await self._parts.store.give_back(replace(held.job, state="queued"), holder=self._holder)
        except ServiceError:
            logger.warning("a job could not be given back; its lease will run out")

    async def _keep(self, held: _Held) -> None:
        """Renew the lease; one that is gone ends the work."""
        while not held.is_lost:
            await asyncio.sleep(self._policy.lease_s / _RENEWALS_PER_LEASE)
            try:
                await held.save()
            except ServiceError:
                continue
            except _LostError:
                held.lose()

    async def _run(self, held: _Held) -> None:
        """Answer the job; failures that are final become its end."""
        job = held.job
        if not job.has_ended:
            num_deaths = job.num_deaths + (job.state == "running")
            started = {"started_at_s": job.started_at_s or self._wall_clock(), "num_deaths": num_deaths}
            await held.save(
                state="running", attempt=job.attempt + 1, part_starts=(), num_lines=0, progress=0.0, **started
            )
            try:
                if num_deaths >= MAX_DEATHS:
                    raise ServiceError("poison_clip", "The processes that worked on this job died; it is given up.")
                await self._answer(held)
            except ServiceError as error:
                if self._may_try_again(held.job, error):
                    raise
                await self._end(held, state="failed", code=error.code, detail=error.detail)
            else:
                await self._end(held, state="done", progress=1.0)
        if job.webhook is not None:
            await self._parts.tell(held.job)

    async def _end(self, held: _Held, **changes: Any) -> None:
        while True:
            try:
                await held.save(ended_at_s=self._wall_clock(), **changes)
                return
            except ServiceError:
                await asyncio.sleep(_RETRY_S)

    async def _answer(self, held: _Held) -> None:
        job = held.job
        context = RequestContext(
            request_id=job.request_id,
            transport="job",
            deadline=Deadline(),
            may_use_cache=job.may_use_cache,
            started_at_s=self._clock(),
        )
        with self._parts.journal.record(request_id=job.request_id, transport="job") as record:
            async with self._upload(job) as upload:
                record.upload_bytes, record.is_body_read = upload.size, True
                events = self._parts.answering.answer(upload, job.options, context)
                log = _AnswerLog(held, self._parts.blobs, self._policy, clock=self._clock)
                async with aclosing(events):
                    async for event in events:
                        await log.write(event)
                        _note(event, record)
                await log.flush()

    @asynccontextmanager
    async def _upload(self, job: Job) -> AsyncIterator[Upload]:
        upload = await self._parts.spool.open_upload(max_bytes=self._max_upload_bytes)
        try:
            async for piece in self._parts.blobs.read(job.upload_name()):
                await upload.write(piece)
            upload.finish()
            yield upload
        finally:
            upload.close()

    async def _sweep(self) -> None:
        while True:
            try:
                for job_id in await self._parts.store.sweep():
                    await self._parts.blobs.delete_all(f"jobs/{job_id}")
                await self._parts.blobs.delete_all(ANSWERS, older_than_s=self._policy.keep_answers_s)
            except ServiceError:
                logger.info("jobs could not be swept")
            except Exception:
                logger.exception("sweeping jobs failed")
            await asyncio.sleep(self._policy.sweep_s)


class _Held:
    """A job in this process's hands; saves go one after the other."""

    def __init__(self, job: Job, store: JobStore, holder: str) -> None:
        self.job = job
        self.work: asyncio.Task[None] | None = None
        self.is_lost = False
        self._store = store
        self._holder = holder
        self._saving = asyncio.Lock()

    async def save(self, **changes: Any) -> None:
        """Write the job with changes; raises _LostError."""
        async with self._saving:
            changed = replace(self.job, **changes)
            if self.is_lost or not await self._store.save(changed, holder=self._holder):
                self.is_lost = True
                raise _LostError
            self.job = changed

    def lose(self) -> None:
        """It is no longer ours."""
        self.is_lost = True
        if self.work is not None:
            self.work.cancel()


class _AnswerLog:
    """Collects an answer's lines into parts and notes them in the job."""

    def __init__(self, held: _Held, blobs: BlobStore, policy: JobPolicy, *, clock: Clock) -> None:
        self._held = held
        self._blobs = blobs
        self._policy = policy
        self._clock = clock
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._num_samples: int | None = None
        self._since_s = clock()

    async def write(self, event: AnswerEvent) -> None:
        """Add a line; store a part when there is enough."""
        if isinstance(event, ClipStarted):
            self._num_samples = event.clip.num_samples
        line = encode_line(event)
        self._lines.append(line)
        self._num_bytes += len(line)
        is_due = self._clock() - self._since_s >= self._policy.flush_s
        if is_due or self._num_bytes >= self._policy.flush_bytes:
            await self.flush()

    async def flush(self) -> None:
        """Store what is collected: the bytes first, then the job that tells of them."""
        if not self._lines:
            return
        job = self._held.job
        await self._blobs.put(job.part_name(len(job.part_starts)), b"".join(self._lines))
        num_lines = job.num_lines + len(self._lines)
        await self._held.save(
            part_starts=(*job.part_starts, job.num_lines), num_lines=num_lines, progress=self._progress(num_lines)
        )
        self._lines, self._num_bytes, self._since_s = [], 0, self._clock()

    def _progress(self, num_lines: int) -> float:
        if not self._num_samples:
            return 0.0
        return min(0.999, max(0, num_lines - 1) / self._num_samples)


def _note(event: AnswerEvent, record: RequestRecord) -> None:
    if isinstance(event, FrameMasks):
        record.num_samples += 1
    elif isinstance(event, Summary):
        record.timings_s = event.timings_s
