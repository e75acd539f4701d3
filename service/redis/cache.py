"""LRU cache of answers in Redis, shared by all fronts."""

from __future__ import annotations

import logging

from service.aio.waits import bounded_wait
from service.domain.errors import ServiceError
from service.redis.link import PREFIX, RedisLink, backend_down

logger = logging.getLogger(__name__)

_TAG = PREFIX + "{cache}:"
_ORDER, _SIZES, _TOTAL = _TAG + "order", _TAG + "sizes", _TAG + "total"
_ENTRY = _TAG + "entry:"
# Timeout in seconds of one cache operation. A slower Redis counts as a miss.
_PATIENCE_S = 1.0

# KEYS entry, order, sizes, total; ARGV id, bytes, ttl ms, max bytes, entry prefix.
_PUT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function drop(id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('DECRBY', KEYS[4], tonumber(redis.call('HGET', KEYS[3], id) or 0))
  redis.call('HDEL', KEYS[3], id)
  redis.call('DEL', ARGV[5] .. id)
end
drop(ARGV[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])) do drop(id) end
while tonumber(redis.call('GET', KEYS[4]) or 0) + #ARGV[2] > tonumber(ARGV[4]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  drop(oldest)
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], #ARGV[2])
redis.call('INCRBY', KEYS[4], #ARGV[2])
return 1
"""

# KEYS entry, order; ARGV id.
_GET = """
local answer = redis.call('GET', KEYS[1])
if answer then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[2], 'XX', t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
end
return answer
"""


class RedisCache:
    """`ports.ResultCache` over Redis. While Redis is unreachable, every lookup is a miss.

    Args:
        link: the Redis of chunk data, which needs no persistence.
        max_bytes: limit on the bytes of all answers of all fronts together.
        ttl_s: lifetime of an answer in seconds.
    """

    def __init__(self, link: RedisLink, *, max_bytes: int, ttl_s: float) -> None:
        self._link = link
        self._max_bytes = max_bytes
        self._ttl_ms = int(ttl_s * 1000)

    async def get(self, key: str) -> bytes | None:
        """Return the answer, or None if it is not cached."""
        try:
            async with bounded_wait(_PATIENCE_S, backend_down):
                found: bytes | None = await self._link.script(_GET, [_ENTRY + key, _ORDER], [key])
        except ServiceError:
            return None
        return found

    async def put(self, key: str, answer: bytes) -> None:
        """Store an answer and evict the least recently used ones. An answer larger than `max_bytes` is not stored."""
        if len(answer) > self._max_bytes:
            return
        try:
            keys = [_ENTRY + key, _ORDER, _SIZES, _TOTAL]
            async with bounded_wait(_PATIENCE_S, backend_down):
                await self._link.script(_PUT, keys, [key, answer, self._ttl_ms, self._max_bytes, _ENTRY])
        except ServiceError:
            logger.info("an answer could not be cached")
