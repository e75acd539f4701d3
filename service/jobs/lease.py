"""A job that this process works on: its lease, its stored state, and the parts of its answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from service.codec.answer_json import encode_line
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks
from service.ports import JobStore
from service.storage.blobs import Blobs

_PARTS_HELD = 32
"""So many parts may wait in memory for a store that is away (8 MiB of run lengths)."""


class LeaseLostError(Exception):
    """The job was erased, or another process has its lease."""


class JobLease:
    """The lease of a job that this process works on. Saves go one after the other."""

    def __init__(self, job: Job, store: JobStore, holder: str) -> None:
        self.job = job
        self.work: asyncio.Task[None] | None = None
        self.is_lost = False
        self._store = store
        self._holder = holder
        self._saving = asyncio.Lock()

    async def save(self, **changes: Any) -> None:
        """Write the job with changes; raises LeaseLostError."""
        async with self._saving:
            changed = replace(self.job, **changes)
            if self.is_lost or not await self._store.save(changed, holder=self._holder):
                self.is_lost = True
                raise LeaseLostError
            self.job = changed

    async def settle(self) -> None:
        """Mark the job as finished in every respect, its webhook included."""
        async with self._saving:
            if not self.is_lost:
                await self._store.settle(self.job, holder=self._holder)
                self.is_lost = True

    async def give_back(self) -> None:
        """Requeue the job. A finished job keeps its final state."""
        async with self._saving:
            if not self.is_lost:
                job = self.job if self.job.has_ended else replace(self.job, state="queued")
                await self._store.give_back(job, holder=self._holder)
                self.is_lost = True

    def lose(self) -> None:
        """Give the job up: its lease is gone, or it was erased. Its work is cancelled."""
        self.is_lost = True
        if self.work is not None:
            self.work.cancel()


class AnswerLog:
    """Collects an answer's lines into parts and notes them in the job."""

    def __init__(self, lease: JobLease, blobs: Blobs, *, flush_bytes: int, flush_s: float, clock: Clock) -> None:
        self._lease = lease
        self._blobs = blobs
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
        """Add a line; store a part when there is enough. Raises ServiceError when the store stays away too long."""
        if isinstance(event, ClipStarted):
            self._num_samples = event.clip.num_samples
        self._num_frames += isinstance(event, FrameMasks)
        line = encode_line(event)
        self._lines.append(line)
        self._num_bytes += len(line)
        if self._clock() - self._since_s < self._flush_s and self._num_bytes < self._due_bytes:
            return
        try:
            await self.flush()
        except ServiceError:
            if self._num_bytes >= _PARTS_HELD * self._flush_bytes:
                raise
            # a store that is away for a moment costs no work: the lines wait here
            self._since_s, self._due_bytes = self._clock(), self._num_bytes + self._flush_bytes

    async def flush(self) -> None:
        """Store what is collected: the bytes first, then the job that tells of them."""
        if not self._lines:
            return
        job = self._lease.job
        await self._blobs.put(job.part_name(len(job.part_starts)), b"".join(self._lines))
        num_lines = job.num_lines + len(self._lines)
        await self._lease.save(
            part_starts=(*job.part_starts, job.num_lines), num_lines=num_lines, progress=self._progress()
        )
        self._lines, self._num_bytes, self._since_s = [], 0, self._clock()
        self._due_bytes = self._flush_bytes

    def _progress(self) -> float:
        if not self._num_samples:
            return 0.0
        return min(0.999, self._num_frames / self._num_samples)
