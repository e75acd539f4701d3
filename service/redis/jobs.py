"""Job store shared by all fronts: records, queue and leases by the clock of Redis. Durable with append-only Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.codec.job_json import decode_job, encode_job
from service.domain.job import Job
from service.redis.link import PREFIX, RedisLink

_TAG = PREFIX + "{jobs}:"
_RECORD = _TAG + "record:"
_GONE = _TAG + "gone:"
_QUEUE, _RUNNING, _ENDED = _TAG + "queue", _TAG + "running", _TAG + "ended"

_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS queue, running; ARGV record prefix, holder, lease ms.
_CLAIM = (
    _NOW
    + """
while true do
  local id = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1)[1]
  if id then redis.call('ZREM', KEYS[2], id) else id = redis.call('LPOP', KEYS[1]) end
  if not id then return false end
  local record = redis.call('HGET', ARGV[1] .. id, 'record')
  if record then
    redis.call('HSET', ARGV[1] .. id, 'holder', ARGV[2])
    redis.call('ZADD', KEYS[2], now + ARGV[3], id)
    return record
  end
end
"""
)

# KEYS record, running, queue, ended; ARGV holder, id, record, what, milliseconds. Only the holder may write.
_WRITE = (
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
if ARGV[4] == 'save' then
  redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[2])
else
  redis.call('HDEL', KEYS[1], 'holder')
  redis.call('ZREM', KEYS[2], ARGV[2])
  if ARGV[4] == 'give back' then redis.call('LPUSH', KEYS[3], ARGV[2])
  else redis.call('ZADD', KEYS[4], now + ARGV[5], ARGV[2]) end
end
return 1
"""
)

# KEYS record, queue; ARGV id, record. Idempotent, because the client retries when a reply was lost.
_ADD = """
if redis.call('HSETNX', KEYS[1], 'record', ARGV[2]) == 1 then redis.call('RPUSH', KEYS[2], ARGV[1]) end
return 1
"""

# KEYS ended; ARGV record prefix, prefix of expired ids, ms to keep expired ids.
_SWEEP = (
    _NOW
    + """
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
for _, id in ipairs(over) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('DEL', ARGV[1] .. id)
  redis.call('SET', ARGV[2] .. id, '1', 'PX', ARGV[3])
end
return over
"""
)


class RedisJobStore:
    """`ports.JobStore` over Redis.

    Args:
        link: the Redis of jobs.
        ttl_s: seconds for which ended jobs are kept.
        lease_s: duration of a lease; a job that is not saved for this long can be claimed by another process.
    """

    def __init__(self, link: RedisLink, *, ttl_s: float, lease_s: float) -> None:
        self._link = link
        self._ttl_ms = int(ttl_s * 1000)
        self._lease_ms = int(lease_s * 1000)

    async def add(self, job: Job) -> None:
        """Store a new job and queue it."""
        await self._link.script(_ADD, [_RECORD + job.job_id, _QUEUE], [job.job_id, encode_job(job)])

    async def get(self, job_id: str) -> Job | None:
        """Return the job as last saved, or None."""
        record = await self._link.call("HGET", _RECORD + job_id, "record")
        return None if record is None else decode_job(record)

    async def has_expired(self, job_id: str) -> bool:
        """Return whether the job has expired and was deleted."""
        return bool(await self._link.call("EXISTS", _GONE + job_id))

    async def num_waiting(self) -> int:
        """Return the number of queued jobs."""
        return int(await self._link.call("LLEN", _QUEUE))

    async def claim(self, holder: str) -> Job | None:
        """Claim a job whose lease has expired, else the oldest queued one. None if there is none."""
        record = await self._link.script(_CLAIM, [_QUEUE, _RUNNING], [_RECORD, holder, self._lease_ms])
        return None if record is None else decode_job(record)

    async def save(self, job: Job, *, holder: str) -> bool:
        """Save the job and renew its lease. Return False if `holder` does not hold it."""
        return bool(await self._write(job, holder, "save", self._lease_ms))

    async def requeue(self, job: Job, *, holder: str) -> None:
        """Put the job back at the head of the queue."""
        await self._write(job, holder, "give back", 0)

    async def settle(self, job: Job, *, holder: str) -> None:
        """Mark the job as completely finished; it is deleted after `ttl_s`."""
        await self._write(job, holder, "settle", self._ttl_ms)

    async def erase(self, job_id: str) -> None:
        """Delete the job at once."""
        await self._link.pipeline(
            [
                ("DEL", _RECORD + job_id),
                ("LREM", _QUEUE, 0, job_id),
                ("ZREM", _RUNNING, job_id),
                ("ZREM", _ENDED, job_id),
            ]
        )

    async def sweep(self) -> Sequence[str]:
        """Delete expired jobs and return their ids. Each id is returned to one front only."""
        over = await self._link.script(_SWEEP, [_ENDED], [_RECORD, _GONE, self._ttl_ms])
        return [job_id.decode() for job_id in over]

    async def _write(self, job: Job, holder: str, what: str, milliseconds: int) -> Any:
        keys = [_RECORD + job.job_id, _RUNNING, _QUEUE, _ENDED]
        return await self._link.script(_WRITE, keys, [holder, job.job_id, encode_job(job), what, milliseconds])
