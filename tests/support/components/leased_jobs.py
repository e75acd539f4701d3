"""Jobs in memory with leases, as several fronts share them; each front sees them through a view that can fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.job import Job


class LeasedJobs:
    """What the views share.

    Args:
        lease_s: a job that is not saved for this long may be claimed by another.
        ttl_s: ended jobs are kept for this long.
        clock: seconds.
    """

    def __init__(self, *, lease_s: float, ttl_s: float, clock: Clock) -> None:
        self.lease_s = lease_s
        self.ttl_s = ttl_s
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.queue: deque[str] = deque()
        self.leases: dict[str, tuple[str, float]] = {}
        self.settled_at_s: dict[str, float] = {}
        self.gone: set[str] = set()


class FrontView:
    """`ports.JobStore` of one front; while `is_down` every call fails."""

    def __init__(self, shared: LeasedJobs) -> None:
        self._shared = shared
        self.is_down = False

    async def add(self, job: Job) -> None:
        self._check()
        self._shared.jobs[job.job_id] = job
        self._shared.queue.append(job.job_id)

    async def get(self, job_id: str) -> Job | None:
        self._check()
        return self._shared.jobs.get(job_id)

    async def has_expired(self, job_id: str) -> bool:
        self._check()
        return job_id in self._shared.gone

    async def num_waiting(self) -> int:
        self._check()
        return len(self._shared.queue)

    async def claim(self, holder: str) -> Job | None:
        self._check()
        shared, now_s = self._shared, self._shared.clock()
        over = [job_id for job_id, (_, until_s) in shared.leases.items() if until_s <= now_s]
        if not over and not shared.queue:
            return None
        job_id = over[0] if over else shared.queue.popleft()
        shared.leases[job_id] = (holder, now_s + shared.lease_s)
        return shared.jobs[job_id]

    async def save(self, job: Job, *, holder: str) -> bool:
        self._check()
        if self._shared.leases.get(job.job_id, ("", 0.0))[0] != holder:
            return False
        self._shared.jobs[job.job_id] = job
        self._shared.leases[job.job_id] = (holder, self._shared.clock() + self._shared.lease_s)
        return True

    async def requeue(self, job: Job, *, holder: str) -> None:
        if await self.save(job, holder=holder):
            del self._shared.leases[job.job_id]
            self._shared.queue.appendleft(job.job_id)

    async def settle(self, job: Job, *, holder: str) -> None:
        if await self.save(job, holder=holder):
            del self._shared.leases[job.job_id]
            self._shared.settled_at_s[job.job_id] = self._shared.clock()

    async def erase(self, job_id: str) -> None:
        self._check()
        for kept in (self._shared.jobs, self._shared.leases, self._shared.settled_at_s):
            kept.pop(job_id, None)
        if job_id in self._shared.queue:
            self._shared.queue.remove(job_id)

    async def sweep(self) -> Sequence[str]:
        self._check()
        due_s = self._shared.clock() - self._shared.ttl_s
        over = [job_id for job_id, at_s in self._shared.settled_at_s.items() if at_s <= due_s]
        for job_id in over:
            await self.erase(job_id)
            self._shared.gone.add(job_id)
        return over

    def set(self, job_id: str, **changes: object) -> None:
        """As another version or a dead process left it."""
        self._shared.jobs[job_id] = replace(self._shared.jobs[job_id], **changes)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.is_down:
            raise ServiceError("backend_down", "The store does not answer.", retry_after_s=2.0)
