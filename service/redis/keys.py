"""Idempotency keys shared by all fronts."""

from __future__ import annotations

import uuid

from service.ports import KeyRecord
from service.redis.link import PREFIX, RedisLink

_KEY = PREFIX + "idempotency:"

# KEYS key; ARGV fingerprint, lease ms, taker. Fields of a key that is taken, nothing for one that is taken now. The
# client repeats a command whose reply was lost: the taker's own second call is not another's use of the key.
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
        """Take a key."""
        found = await self._link.script(_BEGIN, [_KEY + scope], [fingerprint, int(lease_s * 1000), uuid.uuid4().hex])
        return None if found is None else KeyRecord(found[0].decode(), found[1])

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """Still running."""
        await self._link.call("PEXPIRE", _KEY + scope, int(lease_s * 1000))

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Remember."""
        key = _KEY + scope
        await self._link.pipeline(
            [
                ("HSET", key, "fingerprint", record.fingerprint, "reply", record.reply or b""),
                ("PEXPIRE", key, int(ttl_s * 1000)),
            ]
        )

    async def forget(self, scope: str) -> None:
        """Forget."""
        await self._link.call("DEL", _KEY + scope)
