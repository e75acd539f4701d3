"""Jobs of a single process: in memory, each change also a file of a folder, so that a restart goes on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from service.core.job_lines import decode_job, encode_job
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job

logger = logging.getLogger(__name__)


class FolderJobStore:
    """`ports.JobStore` of one process.

    Args:
        folder: of one file a job; None keeps them in memory only.
        ttl_s: ended jobs are kept for this long.
        wall_clock: seconds since 1970, since the times of jobs outlive the process.

    Raises:
        OSError: the folder can be neither made nor read.
    """

    def __init__(self, folder: Path | None, *, ttl_s: float, wall_clock: Clock) -> None:
        self._folder = folder
        self._ttl_s = ttl_s
        self._wall_clock = wall_clock
        self._jobs: dict[str, Job] = {}
        self._queue: deque[str] = deque()
        self._holders: dict[str, str] = {}
        self._settled: set[str] = set()
        self._expired: dict[str, float] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(folder)

    async def add(self, job: Job) -> None:
        """Keep a new job and queue it."""
        await self._write(job)
        self._jobs[job.job_id] = job
        self._queue.append(job.job_id)

    async def get(self, job_id: str) -> Job | None:
        """The job as last saved."""
        return self._jobs.get(job_id)

    async def was_known(self, job_id: str) -> bool:
        """Whether it was kept by this process and its time is over."""
        return job_id in self._expired

    async def num_waiting(self) -> int:
        """Jobs queued."""
        return len(self._queue)

    async def claim(self, holder: str) -> Job | None:
        """The oldest queued job; within one process no holder dies alone."""
        while self._queue:
            job = self._jobs.get(self._queue.popleft())
            if job is not None:
                self._holders[job.job_id] = holder
                return job
        return None

    async def save(self, job: Job, *, holder: str) -> bool:
        """Write it."""
        if self._holders.get(job.job_id) != holder:
            return False
        self._jobs[job.job_id] = job
        await self._write(job)
        return True

    async def give_back(self, job: Job, *, holder: str) -> None:
        """Queue it first."""
        if await self.save(job, holder=holder):
            del self._holders[job.job_id]
            self._queue.appendleft(job.job_id)

    async def settle(self, job: Job, *, holder: str) -> None:
        """Keep it for its time."""
        if await self.save(job, holder=holder):
            del self._holders[job.job_id]
            self._settled.add(job.job_id)

    async def erase(self, job_id: str) -> None:
        """Forget it at once."""
        self._forget(job_id)

    async def sweep(self) -> Sequence[str]:
        """Forget what is over."""
        now_s = self._wall_clock()
        for job_id in [job_id for job_id, at_s in self._expired.items() if at_s <= now_s - self._ttl_s]:
            del self._expired[job_id]
        over = [job_id for job_id in self._settled if _ended_s(self._jobs[job_id]) <= now_s - self._ttl_s]
        for job_id in over:
            self._forget(job_id)
            self._expired[job_id] = now_s
        return over

    def _forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)
        self._holders.pop(job_id, None)
        self._settled.discard(job_id)
        if job_id in self._queue:
            self._queue.remove(job_id)
        if self._folder is not None:
            self._path(self._folder, job_id).unlink(missing_ok=True)

    def _load(self, folder: Path) -> None:
        """Jobs of the former process: those that had not ended are queued again, oldest first."""
        for path in folder.glob("*.json"):
            try:
                job = decode_job(path.read_bytes())
            except ServiceError:
                logger.error("a job file is unreadable and left alone", extra={"file": path.name})
                continue
            self._jobs[job.job_id] = job
        for job in sorted(self._jobs.values(), key=lambda job: job.created_at_s):
            if job.has_ended:
                self._settled.add(job.job_id)
            else:
                self._queue.append(job.job_id)

    async def _write(self, job: Job) -> None:
        if self._folder is not None:
            try:
                await asyncio.to_thread(_write_durably, self._path(self._folder, job.job_id), encode_job(job))
            except OSError as error:
                raise ServiceError("storage_full", "The job cannot be kept; try again later.") from error

    @staticmethod
    def _path(folder: Path, job_id: str) -> Path:
        return folder / f"{job_id}.json"


def _ended_s(job: Job) -> float:
    return job.created_at_s if job.ended_at_s is None else job.ended_at_s


def _write_durably(path: Path, data: bytes) -> None:
    """Either the old or the new content survives a crash."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
