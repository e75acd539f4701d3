"""Process jobs: claim one, store its answer in parts, send result and webhook; requeue it when this process ends."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.aio.tasks import end_tasks
from service.aio.waits import ends_within
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.jobs.computation import JobComputation
from service.jobs.lease import RETRY_S, JobLease, LeaseLostError, until_stored
from service.jobs.parts import JobPolicy, RunnerParts
from service.jobs.sweep import sweep_forever

logger = logging.getLogger(__name__)

# A lease is renewed this many times within its duration.
_RENEWALS_PER_LEASE = 5
# Number of recently ended jobs over which the drain rate is measured.
_RATE_JOBS = 16


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
        self._computation = JobComputation(
            parts, policy, max_upload_bytes=max_upload_bytes, clock=clock, wall_clock=wall_clock
        )
        self._clock = clock
        self._wall_clock = wall_clock
        self._holder = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(policy.num_parallel)
        self._leases: dict[str, JobLease] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ended_at_s: deque[float] = deque(maxlen=_RATE_JOBS)

    def start(self) -> None:
        """Start to claim jobs."""
        num_tasks = self._policy.num_parallel + self._policy.num_deliveries
        self._tasks = [asyncio.create_task(self._work_on_jobs(), name="jobs") for _ in range(num_tasks)]
        self._tasks.append(asyncio.create_task(sweep_forever(self._parts, self._policy), name="sweep jobs"))

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
            self._leases[job_id].revoke()

    async def _work_on_jobs(self) -> None:
        while True:
            try:
                await self._work_on_one()
            except ServiceError:
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("working on jobs failed")
                await asyncio.sleep(RETRY_S)

    async def _work_on_one(self) -> None:
        """Claim and process the next job in a worker slot; send its webhook after releasing the slot."""
        async with AsyncExitStack() as stack:
            async with self._slots:
                job = await self._parts.store.claim(self._holder)
                if job is None:
                    await self._wait()
                    return
                lease = await stack.enter_async_context(self._leased(job))
                if not await self._process(lease):
                    return
            self._ended_at_s.append(self._clock())
            await self._drop_unneeded(lease.job)
            if lease.job.result_url is not None:
                await self._send_result(lease)
                if lease.job.result_format == "overlay":
                    await self._drop_unneeded(lease.job)
            if lease.job.webhook is not None:
                await self._parts.deliver_webhook(lease.job)
            await until_stored(lease.settle)

    async def _drop_unneeded(self, job: Job) -> None:
        """Delete what an ended job needs no more: upload and state. The sweep deletes what is left if that fails.

        A finished job keeps its upload while it `has_clip`.
        """
        is_kept = job.has_clip and job.state == "done"
        unneeded = [] if is_kept else [job.upload_name()]
        if job.track_state:
            unneeded.append(job.track_state)
        try:
            for name in unneeded:
                await self._parts.blobs.delete(name)
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
        await until_stored(lambda: lease.save(result_url=None, result_put=outcome))

    async def _wait(self) -> None:
        self._wake.clear()
        await ends_within(self._policy.poll_s, self._wake.wait())

    @asynccontextmanager
    async def _leased(self, job: Job) -> AsyncIterator[JobLease]:
        """Renew the lease of a claimed job during the body. Requeue the job if the body is cancelled."""
        lease = JobLease(job, self._parts.store, self._holder)
        self._leases[job.job_id] = lease
        renewal = asyncio.create_task(self._renew_periodically(lease))
        try:
            yield lease
        except LeaseLostError:
            logger.info("the lease of a job is lost", extra={"job_id": job.job_id})
        except asyncio.CancelledError:
            await end_tasks([] if lease.work is None else [lease.work])
            await self._requeue(lease)
            raise
        finally:
            del self._leases[job.job_id]
            await end_tasks([renewal])

    async def _process(self, lease: JobLease) -> bool:
        """Process the job. Return False if its lease was lost or it was requeued."""
        work = lease.work = asyncio.create_task(self._computation.run(lease), name=f"job {lease.job.job_id}")
        await asyncio.wait([work])
        if lease.is_lost or work.cancelled():
            return False
        error = work.exception()
        if isinstance(error, ServiceError) and self._computation.may_retry(lease.job, error):
            logger.info("a job is requeued to be retried", extra={"code": error.code})
            await asyncio.sleep(min(error.retry_after_s or RETRY_S, self._policy.lease_s))
            await self._requeue(lease)
            return False
        if isinstance(error, ServiceError):
            await lease.end(at_s=self._wall_clock(), state="failed", code=error.code, detail=error.detail)
        elif error is not None:
            logger.error("a job failed with an unexpected error", exc_info=error)
            await lease.end(
                at_s=self._wall_clock(), state="failed", code="internal", detail="Something failed inside the service."
            )
        return True

    async def _requeue(self, lease: JobLease) -> None:
        try:
            await lease.requeue()
        except ServiceError:
            logger.warning("a job could not be requeued; its lease will expire")

    async def _renew_periodically(self, lease: JobLease) -> None:
        """Renew the lease periodically. Cancel the work if the lease is lost."""
        while not lease.is_lost:
            await asyncio.sleep(self._policy.lease_s / _RENEWALS_PER_LEASE)
            try:
                await lease.save()
            except ServiceError:
                continue
            except LeaseLostError:
                lease.revoke()
