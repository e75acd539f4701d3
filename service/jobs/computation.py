"""Compute the answer of a job and store it in parts; continue behind what an earlier run stored."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any, Final

from service.core.request_log import RequestRecord
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import AnswerEvent, RequestContext, accept_traceparent
from service.domain.result import FrameMasks, Summary
from service.domain.track_states import TrackStates
from service.jobs.lease import RETRY_S, AnswerLog, JobLease
from service.jobs.parts import JobPolicy, RunnerParts
from service.jobs.resume import StoredAnswer, read_stored
from service.jobs.stored_form import stored_form, with_frames
from service.jobs.uploads import stored_upload

logger = logging.getLogger(__name__)

# Fields of a job whose answer is computed from the start.
_NOTHING_STORED: Final[dict[str, Any]] = {
    "part_starts": (),
    "part_attempts": (),
    "num_lines": 0,
    "num_lines_continued": 0,
    "progress": 0.0,
    "track_state": "",
}
# A job fails as `poison_clip` after this many crashes of its process in a row without progress. Workers have a stricter
# limit for single chunks.
MAX_DEATHS = 5


class JobComputation:
    """Computes answers of leased jobs.

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

    async def run(self, lease: JobLease) -> None:
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
                if self.may_retry(lease.job, error):
                    raise
                await lease.end(at_s=self._wall_clock(), state="failed", code=error.code, detail=error.detail)
            else:
                await lease.end(at_s=self._wall_clock(), state="done", progress=1.0)

    def may_retry(self, job: Job, error: ServiceError) -> bool:
        """Return whether the job is computed again after this error."""
        return error.spec.is_retryable and self._wall_clock() - job.created_at_s < self._policy.retry_for_s

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
                track_states=_track_states(job, stored),
            )
            record.span.set(job_id=job.job_id, attempt=job.attempt)
            async with stored_upload(
                job, self._parts.blobs, self._parts.spool, max_bytes=self._max_upload_bytes
            ) as upload:
                record.upload_bytes, record.is_body_read = upload.size, True
                options = with_frames(job.options if stored is None else stored.remaining(job.options))
                events = self._parts.answering.answer(upload, options, context)
                log = self._log(lease, context.track_states)
                if stored is not None:
                    log.resume(stored.started.clip.num_samples, num_frames=stored.num_frames)
                    events = stored.follow(events)
                async with aclosing(events):
                    async for event in events:
                        await log.write(stored_form(event, job.options))
                        _count(event, record)
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
                await asyncio.sleep(RETRY_S)

    def _log(self, lease: JobLease, track_states: TrackStates | None) -> AnswerLog:
        policy = self._policy
        return AnswerLog(
            lease,
            self._parts.blobs,
            flush_bytes=policy.flush_bytes,
            flush_s=policy.flush_s,
            clock=self._clock,
            track_states=track_states,
        )


def _track_states(job: Job, stored: StoredAnswer | None) -> TrackStates | None:
    if not job.options.instances:
        return None
    return TrackStates(None if stored is None else stored.track_state)


def _count(event: AnswerEvent, record: RequestRecord) -> None:
    if isinstance(event, FrameMasks):
        record.num_samples += 1
    elif isinstance(event, Summary):
        record.timings_s = event.timings_s
