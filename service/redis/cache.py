"""Answers kept in Redis' data role for all fronts, within a bound: the least recently used leave first."""

from __future__ import annotations

import asyncio
import logging

from service.domain.errors import ServiceError
from service.redis.link import PREFIX, RedisLink

logger = logging.getLogger(__name__)

_TAG = PREFIX + "{cache}:"
_ORDER, _SIZES, _TOTAL = _TAG + "order", _TAG + "sizes", _TAG + "total"
_ENTRY = _TAG + "entry:"
# What a look or a put may cost; a Redis that takes longer is no cache to a request that waits.
_PATIENCE_S = 1.0

# KEYS entry, order, sizes, total; ARGV id, bytes, ttl ms, most bytes, entry prefix.
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
    """`ports.ResultCache` over Redis; without it there are just no hits.

    Args:
        link: the Redis of chunks, which needs no persistence.
        max_bytes: of all answers of all fronts together.
        ttl_s: an answer is kept for at most this long.
    """

    def __init__(self, link: RedisLink, *, max_bytes: int, ttl_s: float) -> None:
        self._link = link
        self._max_bytes = max_bytes
        self._ttl_ms = int(ttl_s * 1000)

    async def get(self, key: str) -> bytes | None:
        """The answer, if it is still there."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                found: bytes | None = await self._link.script(_GET, [_ENTRY + key, _ORDER], [key])
        except (ServiceError, TimeoutError):
            return None
        return found

    async def put(self, key: str, answer: bytes) -> None:
        """Keep an answer; one that is over the bound by itself is not kept."""
        if len(answer) > self._max_bytes:
            return
        try:
            keys = [_ENTRY + key, _ORDER, _SIZES, _TOTAL]
            async with asyncio.timeout(_PATIENCE_S):
                await self._link.script(_PUT, keys, [key, answer, self._ttl_ms, self._max_bytes, _ENTRY])
        except (ServiceError, TimeoutError):
            logger.info("an answer is not kept")
