"""Idempotency keys shared by all fronts."""

from __future__ import annotations

import uuid

from service.ports import KeyRecord
from service.redis.link import PREFIX, RedisLink

_KEY = PREFIX + "idempotency:"

# KEYS key; ARGV fingerprint, lease ms, taker. Returns the fields of a key that is in use, false if this call acquires
# the key. Idempotent for the same taker, because the client retries when a reply was lost.
_BEGIN = """
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'reply', 'taker')
if found[1] and found[3] ~= ARGV[3] then return found end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'taker', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
"""


class RedisKeyStore:
    """`ports.KeyStore` over Redis.

    Args:
        link: the Redis of jobs and keys.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        """Acquire a key. Return its record if it is already in use or has a reply, else None."""
        found = await self._link.script(_BEGIN, [_KEY + scope], [fingerprint, int(lease_s * 1000), uuid.uuid4().hex])
        return None if found is None else KeyRecord(found[0].decode(), found[1])

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """Extend the lease of a key whose request is still running."""
        await self._link.call("PEXPIRE", _KEY + scope, int(lease_s * 1000))

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Store the reply of a key for `ttl_s` seconds."""
        key = _KEY + scope
        await self._link.pipeline(
            [
                ("HSET", key, "fingerprint", record.fingerprint, "reply", record.reply or b""),
                ("PEXPIRE", key, int(ttl_s * 1000)),
            ]
        )

    async def forget(self, scope: str) -> None:
        """Release a key."""
        await self._link.call("DEL", _KEY + scope)
