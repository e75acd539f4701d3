"""Process jobs: claim one, store its answer in parts, send result and webhook; requeue it when this process ends."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from service.aio.tasks import end_tasks
from service.aio.waits import ends_within
from service.answers.idempotency import ANSWERS
from service.core.request_log import RequestLog, RequestRecord
from service.domain.caller import Caller
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.domain.request import AnswerEvent, RequestContext, accept_traceparent
from service.domain.result import FrameMasks, Summary
from service.jobs.lease import AnswerLog, JobLease, LeaseLostError
from service.jobs.resume import StoredAnswer, read_stored
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import Answering, JobStore
from service.storage.blobs import Blobs

logger = logging.getLogger(__name__)

# Seconds before a failed store operation is retried.
_RETRY_S = 1.0
# A lease is renewed this many times within its duration.
_RENEWALS_PER_LEASE = 5
# Number of recently ended jobs over which the drain rate is measured.
_RATE_JOBS = 16
# Fields of a job whose answer is computed from the start.
_NOTHING_STORED: Final[dict[str, Any]] = {
    "part_starts": (),
    "part_attempts": (),
    "num_lines": 0,
    "num_lines_continued": 0,
    "progress": 0.0,
}
# A job fails as `poison_clip` after this many crashes of its process in a row without progress. Workers have a stricter
# limit for single chunks.
MAX_DEATHS = 5


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Limits and intervals of the job runner.

    Attributes:
        lease_s: duration of a lease; a job that is not saved for this long can be claimed by another process.
        num_parallel: most jobs in progress in this process. Their samples have a lower priority than requests.
        num_telling: most webhooks in delivery, in addition to the jobs in progress.
        flush_bytes, flush_s: a part of the answer is stored at this size or age.
        poll_s: interval at which the queue is polled.
        retry_for_s: retryable failures are retried while the job is younger than this.
        sweep_s: interval at which ended jobs are cleaned up.
        keep_answers_s: age at which stored answers of idempotency keys are deleted.
        keep_blobs_s: age at which blobs without a job are deleted (a crash between two steps leaves them). Much longer
            than any job lives.
    """

    lease_s: float
    num_parallel: int = 2
    num_telling: int = 16
    flush_bytes: int = 256 * 1024
    flush_s: float = 1.0
    poll_s: float = 1.0
    retry_for_s: float = 3600.0
    sweep_s: float = 60.0
    keep_answers_s: float = 86_400.0
    keep_blobs_s: float = 30 * 86_400.0


async def nothing_to_measure() -> None:
    """Do nothing: there is no state disk."""


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """Components that the runner uses.

    Attributes:
        tell: sends the webhook of an ended job; does not raise.
        send_result: puts the result of an ended job to its `result_url` and returns how that went; does not raise.
        caller_of: returns the caller with a key id.
        measure: measures the state disk again, because other processes may write to it.
    """

    store: JobStore
    blobs: Blobs
    answering: Answering
    spool: Spool
    request_log: RequestLog
    tell: Callable[[Job], Awaitable[None]]
    send_result: Callable[[Job], Coroutine[None, None, ResultPut]]
    caller_of: Callable[[str], Caller] = lambda key_id: Caller(key_id=key_id)
    measure: Callable[[], Awaitable[None]] = nothing_to_measure


class JobRunner:
    """Processes jobs until closed.

    Args:
        parts: the components to use.
        policy: limits and intervals.
        max_upload_bytes: largest upload that is read back from the blob store.
        clock: seconds, monotonic.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self, parts: RunnerParts, policy: JobPolicy, *, max_upload_bytes: int, clock: Clock, wall_clock: Clock
    ) -> None:
        self._parts = parts
        self._policy = policy
        self._max_upload_bytes = max_upload_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._holder = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(policy.num_parallel)
        self._leases: dict[str, JobLease] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ended_at_s: deque[float] = deque(maxlen=_RATE_JOBS)

    def start(self) -> None:
        """Start to claim jobs."""
        num_tasks = self._policy.num_parallel + self._policy.num_telling
        self._tasks = [asyncio.create_task(self._work_on_jobs(), name="jobs") for _ in range(num_tasks)]
        self._tasks.append(asyncio.create_task(self._sweep(), name="sweep jobs"))

    async def aclose(self) -> None:
        """Stop, and requeue running jobs for another process or for the next start."""
        await end_tasks(self._tasks)

    def seconds_per_job(self) -> float | None:
        """Return the measured seconds between the ends of the latest jobs of this process; None until two ended."""
        if len(self._ended_at_s) < 2:
            return None
        return (self._clock() - self._ended_at_s[0]) / (len(self._ended_at_s) - 1)

    def wake(self) -> None:
        """Poll the queue now, because a job was added."""
        self._wake.set()

    def drop(self, job_id: str) -> None:
        """Cancel the work on a deleted job, if this process holds it."""
        if job_id in self._leases:
            self._leases[job_id].lose()

    async def _work_on_jobs(self) -> None:
        while True:
            try:
                await self._work_on_one()
            except ServiceError:
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("working on jobs failed")
                await asyncio.sleep(_RETRY_S)

    async def _work_on_one(self) -> None:
        """Claim and process the next job in a worker slot; send its webhook after releasing the slot."""
        async with AsyncExitStack() as holding:
            async with self._places:
                job = await self._parts.store.claim(self._holder)
                if job is None:
                    await self._wait()
                    return
                lease = await holding.enter_async_context(self._leased(job))
                if not await self._has_ended(lease):
                    return
            await self._drop_upload(lease.job)
            if lease.job.result_url is not None:
                await self._send_result(lease)
            if lease.job.webhook is not None:
                await self._parts.tell(lease.job)
            await self._persist(lease.settle)

    async def _drop_upload(self, job: Job) -> None:
        """Delete the upload of a job that has ended; the sweep deletes what is left if that fails."""
        self._ended_at_s.append(self._clock())
        try:
            await self._parts.blobs.delete(job.upload_name())
        except ServiceError:
            logger.info("the upload of an ended job could not be deleted", extra={"job_id": job.job_id})

    async def _send_result(self, lease: JobLease) -> None:
        """Put the result to the job's `result_url`. Deleting the job cancels it. Raises LeaseLostError."""
        work = asyncio.create_task(self._parts.send_result(lease.job), name=f"result {lease.job.job_id}")
        lease.work = work
        await asyncio.wait([work])
        if lease.is_lost:
            raise LeaseLostError
        error = work.exception()
        if error is not None:
            logger.error("sending a result failed with an unexpected error", exc_info=error)
        outcome = work.result() if error is None else ResultPut("failed", "Something failed inside the service.")
        await self._persist(lambda: lease.save(result_url=None, result_put=outcome))

    async def _wait(self) -> None:
        self._wake.clear()
        await ends_within(self._policy.poll_s, self._wake.wait())

    @asynccontextmanager
    async def _leased(self, job: Job) -> AsyncIterator[JobLease]:
        """Renew the lease of a claimed job during the body. Requeue the job if the body is cancelled."""
        lease = JobLease(job, self._parts.store, self._holder)
        self._leases[job.job_id] = lease
        keeping = asyncio.create_task(self._keep(lease))
        try:
            yield lease
        except LeaseLostError:
            logger.info("the lease of a job is lost", extra={"job_id": job.job_id})
        except asyncio.CancelledError:
            await end_tasks([] if lease.work is None else [lease.work])
            await self._give_back(lease)
            raise
        finally:
            del self._leases[job.job_id]
            await end_tasks([keeping])

    async def _has_ended(self, lease: JobLease) -> bool:
        """Process the job. Return False if its lease was lost or it was requeued."""
        work = lease.work = asyncio.create_task(self._run(lease), name=f"job {lease.job.job_id}")
        await asyncio.wait([work])
        if lease.is_lost or work.cancelled():
            return False
        error = work.exception()
        if isinstance(error, ServiceError) and self._may_try_again(lease.job, error):
            logger.info("a job is requeued to be retried", extra={"code": error.code})
            await asyncio.sleep(min(error.retry_after_s or _RETRY_S, self._policy.lease_s))
            await self._give_back(lease)
            return False
        if isinstance(error, ServiceError):
            await self._end(lease, state="failed", code=error.code, detail=error.detail)
        elif error is not None:
            logger.error("a job failed with an unexpected error", exc_info=error)
            await self._end(lease, state="failed", code="internal", detail="Something failed inside the service.")
        return True

    def _may_try_again(self, job: Job, error: ServiceError) -> bool:
        return error.spec.is_retryable and self._wall_clock() - job.created_at_s < self._policy.retry_for_s

    async def _give_back(self, lease: JobLease) -> None:
        try:
            await lease.give_back()
        except ServiceError:
            logger.warning("a job could not be requeued; its lease will expire")

    async def _keep(self, lease: JobLease) -> None:
        """Renew the lease periodically. Cancel the work if the lease is lost."""
        while not lease.is_lost:
            await asyncio.sleep(self._policy.lease_s / _RENEWALS_PER_LEASE)
            try:
                await lease.save()
            except ServiceError:
                continue
            except LeaseLostError:
                lease.lose()

    async def _run(self, lease: JobLease) -> None:
        """Compute the answer of the job. Store final failures in the job; raise those that will be retried."""
        job = lease.job
        if not job.has_ended:
            stored = await read_stored(job, self._parts.blobs)
            has_advanced = stored is not None and job.num_lines > job.num_lines_continued
            num_deaths = (0 if has_advanced else job.num_deaths) + (job.state == "running")
            started = {"started_at_s": job.started_at_s or self._wall_clock(), "num_deaths": num_deaths}
            kept = {"num_lines_continued": job.num_lines} if stored is not None else _NOTHING_STORED
            await lease.save(state="running", attempt=job.attempt + 1, **kept, **started)
            try:
                if num_deaths >= MAX_DEATHS:
                    raise ServiceError("poison_clip", "Processes crashed while working on this job; it is not retried.")
                await self._continue(lease, stored)
            except ServiceError as error:
                if self._may_try_again(lease.job, error):
                    raise
                await self._end(lease, state="failed", code=error.code, detail=error.detail)
            else:
                await self._end(lease, state="done", progress=1.0)

    async def _end(self, lease: JobLease, **changes: Any) -> None:
        await self._persist(lambda: lease.save(ended_at_s=self._wall_clock(), **changes))

    async def _persist(self, action: Callable[[], Awaitable[None]]) -> None:
        """Retry until the store accepts the write. Raises LeaseLostError."""
        while True:
            try:
                await action()
                return
            except ServiceError:
                await asyncio.sleep(_RETRY_S)

    async def _continue(self, lease: JobLease, stored: StoredAnswer | None) -> None:
        """Compute what is missing of the answer; the whole answer if another model answers now."""
        if stored is None or not stored.is_whole:
            await self._answer(lease, stored)
        if stored is not None and stored.is_outdated:
            logger.info("a job starts again, because the model has changed", extra={"job_id": lease.job.job_id})
            await lease.save(**_NOTHING_STORED, attempt=lease.job.attempt + 1)
            await self._answer(lease, None)

    async def _answer(self, lease: JobLease, stored: StoredAnswer | None) -> None:
        job = lease.job
        trace = {"traceparent": accept_traceparent(job.traceparent), "operation": "job"}
        with self._parts.request_log.record(request_id=job.request_id, transport="job", **trace) as record:
            record.caller = self._parts.caller_of(job.owner)
            context = RequestContext(
                request_id=job.request_id,
                transport="job",
                deadline=Deadline(),
                may_use_cache=job.may_use_cache and stored is None,
                started_at_s=self._clock(),
                caller=record.caller,
                traceparent=record.span.traceparent,
                heard_from_s=None if stored is None else job.options.start_s,
            )
            record.span.set(job_id=job.job_id, attempt=job.attempt)
            async with self._upload(job) as upload:
                record.upload_bytes, record.is_body_read = upload.size, True
                options = job.options if stored is None else stored.remaining(job.options)
                events = self._parts.answering.answer(upload, options, context)
                log = self._log(lease)
                if stored is not None:
                    log.resume(stored.started.clip.num_samples, num_frames=stored.num_frames)
                    events = stored.follow(events)
                async with aclosing(events):
                    async for event in events:
                        await log.write(event)
                        _note(event, record)
                await self._flush(log)

    async def _flush(self, log: AnswerLog) -> None:
        """Store the rest of the answer. Retries while the store is unreachable, for at most the duration of a lease."""
        until_s = self._clock() + self._policy.lease_s
        while True:
            try:
                await log.flush()
                return
            except ServiceError:
                if self._clock() >= until_s:
                    raise
                await asyncio.sleep(_RETRY_S)

    def _log(self, lease: JobLease) -> AnswerLog:
        policy = self._policy
        return AnswerLog(
            lease, self._parts.blobs, flush_bytes=policy.flush_bytes, flush_s=policy.flush_s, clock=self._clock
        )

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
                await self._parts.blobs.delete_all("jobs", older_than_s=self._policy.keep_blobs_s)
                await self._parts.measure()
            except ServiceError:
                logger.info("ended jobs could not be cleaned up")
            except Exception:
                logger.exception("cleaning up ended jobs failed")
            await asyncio.sleep(self._policy.sweep_s)


def _note(event: AnswerEvent, record: RequestRecord) -> None:
    if isinstance(event, FrameMasks):
        record.num_samples += 1
    elif isinstance(event, Summary):
        record.timings_s = event.timings_s
