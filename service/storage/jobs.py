"""Job store of a single process: in memory, with one file per job so that jobs survive a restart."""

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
from service.storage.room import StateRoom

logger = logging.getLogger(__name__)

# Suffixes of a job's file before and after its webhook was sent.
_OPEN, _SETTLED = ".json", ".settled.json"


class FolderJobStore:
    """`ports.JobStore` of one process. Only the holder writes a job, one write at a time.

    Args:
        folder: folder with one file per job; None keeps jobs in memory only.
        ttl_s: seconds for which ended jobs are kept.
        wall_clock: seconds since 1970, because times of jobs are compared across restarts.
        room: bounds the bytes of the files. It may refuse a new job; changes of a job that was accepted are counted
            and never refused.

    Raises:
        OSError: the folder cannot be created or read.
    """

    def __init__(self, folder: Path | None, *, ttl_s: float, wall_clock: Clock, room: StateRoom | None = None) -> None:
        self._folder = folder
        self._room = room or StateRoom()
        self._file_bytes: dict[str, int] = {}
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
        """Store a new job and queue it. Raises ServiceError `storage_full`."""
        num_bytes = len(encode_job(job))
        self._room.reserve(num_bytes)
        try:
            await self._write(job)
        except BaseException:
            self._unlink(job.job_id)  # a job that nobody was promised
            raise
        finally:
            self._room.release(num_bytes)
        self._jobs[job.job_id] = job
        self._queue.append(job.job_id)

    async def get(self, job_id: str) -> Job | None:
        """Return the job as last saved, or None."""
        return self._jobs.get(job_id)

    async def has_expired(self, job_id: str) -> bool:
        """Return whether this process has stored the job and deleted it after its lifetime."""
        return job_id in self._expired

    async def num_waiting(self) -> int:
        """Return the number of queued jobs."""
        return len(self._queue)

    async def claim(self, holder: str) -> Job | None:
        """Claim the oldest queued job. Leases never expire, because all holders are in this process."""
        while self._queue:
            job = self._jobs.get(self._queue.popleft())
            if job is not None:
                self._holders[job.job_id] = holder
                return job
        return None

    async def save(self, job: Job, *, holder: str) -> bool:
        """Save the job. Return False if `holder` does not hold it."""
        if self._holders.get(job.job_id) != holder:
            return False
        await self._write(job)
        return self._publish(job, holder)

    async def requeue(self, job: Job, *, holder: str) -> None:
        """Put the job back at the head of the queue."""
        if await self.save(job, holder=holder):
            del self._holders[job.job_id]
            self._queue.appendleft(job.job_id)

    async def settle(self, job: Job, *, holder: str) -> None:
        """Mark the job as completely finished; it is deleted `ttl_s` after its end."""
        if self._holders.get(job.job_id) != holder:
            return
        await self._write(job, is_settled=True)
        if self._publish(job, holder):
            del self._holders[job.job_id]
            self._settled.add(job.job_id)

    async def erase(self, job_id: str) -> None:
        """Delete the job at once."""
        self._forget(job_id)

    async def sweep(self) -> Sequence[str]:
        """Delete expired jobs and return their ids."""
        now_s = self._wall_clock()
        for job_id in [job_id for job_id, at_s in self._expired.items() if at_s <= now_s - self._ttl_s]:
            del self._expired[job_id]
        over = [job_id for job_id in self._settled if _ended_s(self._jobs[job_id]) <= now_s - self._ttl_s]
        for job_id in over:
            self._forget(job_id)
            self._expired[job_id] = now_s
        return over

    def _publish(self, job: Job, holder: str) -> bool:
        """Let readers see what is written now, so that a crash takes nothing back that they were told.

        Return False for a job that was erased meanwhile.
        """
        if self._holders.get(job.job_id) != holder:
            return False
        self._jobs[job.job_id] = job
        return True

    def _forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)
        self._holders.pop(job_id, None)
        self._settled.discard(job_id)
        if job_id in self._queue:
            self._queue.remove(job_id)
        self._unlink(job_id)

    def _load(self, folder: Path) -> None:
        """Load the jobs of the previous process and queue the unsettled ones, oldest first."""
        for path in sorted(folder.glob("*.json")):  # if a job has two files, the settled one sorts last
            try:
                job = decode_job(path.read_bytes())
            except ServiceError:
                logger.error("a job file is unreadable and ignored", extra={"file": path.name})
                continue
            self._jobs[job.job_id] = job
            self._file_bytes[job.job_id] = path.stat().st_size
            if path.name.endswith(_SETTLED):
                self._settled.add(job.job_id)
        waiting = [job for job in self._jobs.values() if job.job_id not in self._settled]
        self._queue.extend(job.job_id for job in sorted(waiting, key=lambda job: job.created_at_s))

    async def _write(self, job: Job, *, is_settled: bool = False) -> None:
        """Write the file, and finish writing even if cancelled. A job that is deleted meanwhile stays deleted."""
        if self._folder is None:
            return
        is_new = job.job_id not in self._jobs
        names = [job.job_id + suffix for suffix in (_OPEN, _SETTLED)]
        path, other = (self._folder / name for name in (reversed(names) if is_settled else names))
        data = encode_job(job)
        writing = asyncio.get_running_loop().run_in_executor(None, _write_durably, path, data, other)
        try:
            await asyncio.shield(writing)
            self._count(job.job_id, len(data))
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise
        except OSError as error:
            raise ServiceError(
                "storage_full", "The job cannot be stored; try again later.", retry_after_s=30.0
            ) from error
        finally:
            if not is_new and job.job_id not in self._jobs:
                self._unlink(job.job_id)

    def _count(self, job_id: str, num_bytes: int) -> None:
        """Count the size of a job's file; 0 for a file that was deleted."""
        self._room.add(num_bytes - self._file_bytes.pop(job_id, 0))
        if num_bytes:
            self._file_bytes[job_id] = num_bytes

    def _unlink(self, job_id: str) -> None:
        if self._folder is not None:
            self._count(job_id, 0)
            for suffix in (_OPEN, _SETTLED):
                (self._folder / (job_id + suffix)).unlink(missing_ok=True)


def _ended_s(job: Job) -> float:
    return job.created_at_s if job.ended_at_s is None else job.ended_at_s


def _write_durably(path: Path, data: bytes, other: Path) -> None:
    """Replace `path` atomically and durably, then delete `other`."""
    fresh = path.with_suffix(".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)  # leave no partial file on a full disk
        raise
    other.unlink(missing_ok=True)
