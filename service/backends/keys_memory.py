"""Idempotency keys of a single process."""

from __future__ import annotations

from service.domain.deadline import Clock
from service.ports import KeyRecord

_MAX_KEYS = 100_000
"""At about 200 bytes each, 20 MB; beyond it the oldest are forgotten early."""


class MemoryKeyStore:
    """`ports.KeyStore` of one process.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, tuple[float, KeyRecord]] = {}

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        """Take a key."""
        now_s = self._clock()
        until_s, found = self._records.get(scope, (0.0, None))
        if found is not None and until_s > now_s:
            return found
        self._records.pop(scope, None)
        self._tidy(now_s)
        self._records[scope] = (now_s + lease_s, KeyRecord(fingerprint, None))
        return None

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """Still running."""
        if scope in self._records:
            self._records[scope] = (self._clock() + lease_s, self._records[scope][1])

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Remember."""
        self._records[scope] = (self._clock() + ttl_s, record)

    async def forget(self, scope: str) -> None:
        """Forget."""
        self._records.pop(scope, None)

    def _tidy(self, now_s: float) -> None:
        if len(self._records) >= _MAX_KEYS:
            self._records = {scope: entry for scope, entry in self._records.items() if entry[0] > now_s}
        while len(self._records) >= _MAX_KEYS:
            del self._records[next(iter(self._records))]
