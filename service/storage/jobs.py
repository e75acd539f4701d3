"""Jobs of a single process: in memory, each change also a file of a folder, so that a restart goes on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from service.codec.job_json import decode_job, encode_job
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job

logger = logging.getLogger(__name__)

_OPEN, _SETTLED = ".json", ".settled.json"
"""A job's file, until its end was told and after."""


class FolderJobStore:
    """`ports.JobStore` of one process. Writes of one job come one after the other: they are its holder's.

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
        if self._holders.get(job.job_id) != holder:
            return
        self._jobs[job.job_id] = job
        await self._write(job, is_settled=True)
        if self._holders.pop(job.job_id, None) is not None:
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
        self._unlink(job_id)

    def _load(self, folder: Path) -> None:
        """Jobs of the former process: those that were not settled are queued again, oldest first."""
        for path in sorted(folder.glob("*.json")):  # of two files of a job the settled one comes last
            try:
                job = decode_job(path.read_bytes())
            except ServiceError:
                logger.error("a job file is unreadable and left alone", extra={"file": path.name})
                continue
            self._jobs[job.job_id] = job
            if path.name.endswith(_SETTLED):
                self._settled.add(job.job_id)
        waiting = [job for job in self._jobs.values() if job.job_id not in self._settled]
        self._queue.extend(job.job_id for job in sorted(waiting, key=lambda job: job.created_at_s))

    async def _write(self, job: Job, *, is_settled: bool = False) -> None:
        """To the end even when cancelled; a job that was erased meanwhile stays erased."""
        if self._folder is None:
            return
        is_new = job.job_id not in self._jobs
        names = [job.job_id + suffix for suffix in (_OPEN, _SETTLED)]
        path, other = (self._folder / name for name in (reversed(names) if is_settled else names))
        writing = asyncio.get_running_loop().run_in_executor(None, _write_durably, path, encode_job(job), other)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise
        except OSError as error:
            raise ServiceError(
                "storage_full", "The job cannot be kept; try again later.", retry_after_s=30.0
            ) from error
        finally:
            if not is_new and job.job_id not in self._jobs:
                self._unlink(job.job_id)

    def _unlink(self, job_id: str) -> None:
        if self._folder is not None:
            for suffix in (_OPEN, _SETTLED):
                (self._folder / (job_id + suffix)).unlink(missing_ok=True)


def _ended_s(job: Job) -> float:
    return job.created_at_s if job.ended_at_s is None else job.ended_at_s


def _write_durably(path: Path, data: bytes, other: Path) -> None:
    """Either the old or the new content survives a crash; `other` goes once `path` is there."""
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)  # a full disk leaves nothing half-made
        raise
    other.unlink(missing_ok=True)
