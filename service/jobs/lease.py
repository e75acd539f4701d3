"""Lease of a job that this process works on, and the log that stores its answer in parts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from service.codec.answer_json import encode_line
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks
from service.domain.track_states import TrackStates
from service.ports import JobStore
from service.storage.blobs import Blobs

# Seconds before a failed store operation is retried.
RETRY_S = 1.0
# Most parts that wait in memory while the blob store is unreachable (8 MiB of run lengths).
_MAX_BUFFERED_PARTS = 32


class LeaseLostError(Exception):
    """The job was deleted, or another process holds its lease."""


class JobLease:
    """Lease of a job that this process works on. Writes are serialised."""

    def __init__(self, job: Job, store: JobStore, holder: str) -> None:
        self.job = job
        self.work: asyncio.Task[Any] | None = None
        self.is_lost = False
        self._store = store
        self._holder = holder
        self._saving = asyncio.Lock()

    async def save(self, **changes: Any) -> None:
        """Save the job with the given fields changed, and renew the lease. Raises LeaseLostError."""
        async with self._saving:
            changed = replace(self.job, **changes)
            if self.is_lost or not await self._store.save(changed, holder=self._holder):
                self.is_lost = True
                raise LeaseLostError
            self.job = changed

    async def end(self, *, at_s: float, **changes: Any) -> None:
        """Save that the job has ended, as soon as the store accepts it. Raises LeaseLostError.

        Args:
            at_s: seconds since 1970.
            changes: fields of the job.
        """
        await until_stored(lambda: self.save(ended_at_s=at_s, **changes))

    async def settle(self) -> None:
        """Mark the job as completely finished, including its webhook."""
        async with self._saving:
            if not self.is_lost:
                await self._store.settle(self.job, holder=self._holder)
                self.is_lost = True

    async def requeue(self) -> None:
        """Requeue the job. A finished job keeps its final state."""
        async with self._saving:
            if not self.is_lost:
                job = self.job if self.job.has_ended else replace(self.job, state="queued")
                await self._store.requeue(job, holder=self._holder)
                self.is_lost = True

    def revoke(self) -> None:
        """Cancel the work on the job, because its lease is lost or the job was deleted."""
        self.is_lost = True
        if self.work is not None:
            self.work.cancel()


async def until_stored(write: Callable[[], Awaitable[None]]) -> None:
    """Retry a write to the store until it is accepted. Raises LeaseLostError."""
    while True:
        try:
            await write()
            return
        except ServiceError:
            await asyncio.sleep(RETRY_S)


class AnswerLog:
    """Collects the lines of an answer, stores them in parts and records the parts in the job.

    With a part, the state of the instance tracker is stored that belongs to its last frame or one before it.
    """

    def __init__(
        self,
        lease: JobLease,
        blobs: Blobs,
        *,
        flush_bytes: int,
        flush_s: float,
        clock: Clock,
        track_states: TrackStates | None = None,
    ) -> None:
        self._lease = lease
        self._blobs = blobs
        self._track_states = track_states
        self._last_time_s = -math.inf
        self._unstored_state: bytes | None = None
        self._flush_bytes = flush_bytes
        self._flush_s = flush_s
        self._clock = clock
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._due_bytes = flush_bytes
        self._num_samples: int | None = None
        self._num_frames = 0
        self._since_s = clock()

    async def write(self, event: AnswerEvent) -> None:
        """Add a line and store a part when it is due. Raises ServiceError if the store is unreachable for too long."""
        if isinstance(event, ClipStarted):
            self._num_samples = event.clip.num_samples
        if isinstance(event, FrameMasks):
            self._num_frames += 1
            self._last_time_s = event.sample_time_s
        line = encode_line(event)
        self._lines.append(line)
        self._num_bytes += len(line)
        if self._clock() - self._since_s < self._flush_s and self._num_bytes < self._due_bytes:
            return
        try:
            await self.flush()
        except ServiceError:
            if self._num_bytes >= _MAX_BUFFERED_PARTS * self._flush_bytes:
                raise
            # keep the lines in memory through a short outage of the store, so that no work is lost
            self._since_s, self._due_bytes = self._clock(), self._num_bytes + self._flush_bytes

    async def flush(self) -> None:
        """Store the collected lines: first the bytes, then the job that refers to them."""
        if not self._lines:
            return
        job = self._lease.job
        await self._blobs.put(job.part_name(len(job.part_starts)), b"".join(self._lines))
        track_state = await self._store_state(job)
        num_lines = job.num_lines + len(self._lines)
        await self._lease.save(
            part_starts=(*job.part_starts, job.num_lines),
            part_attempts=(*job.part_attempts, job.attempt),
            num_lines=num_lines,
            progress=self._progress(),
            track_state=track_state,
        )
        if job.track_state not in ("", track_state):
            with suppress(ServiceError):  # it goes with the job at the latest
                await self._blobs.delete(job.track_state)
        self._unstored_state = None
        self._lines, self._num_bytes, self._since_s = [], 0, self._clock()
        self._due_bytes = self._flush_bytes

    def resume(self, num_samples: int | None, *, num_frames: int) -> None:
        """Count the frames that earlier runs stored."""
        self._num_samples, self._num_frames = num_samples, num_frames

    async def _store_state(self, job: Job) -> str:
        """Store the newest state that belongs to a collected line; returns the name of the newest stored one."""
        if self._track_states is None:
            return job.track_state
        self._unstored_state = self._track_states.take_until(self._last_time_s) or self._unstored_state
        if self._unstored_state is None:
            return job.track_state
        await self._blobs.put(job.next_track_state(), self._unstored_state)
        return job.next_track_state()

    def _progress(self) -> float:
        if not self._num_samples:
            return 0.0
        return min(0.999, self._num_frames / self._num_samples)
