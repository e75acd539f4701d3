"""In-memory LRU cache of answers."""

from __future__ import annotations

from collections import OrderedDict

from service.domain.deadline import Clock


class MemoryCache:
    """`ports.ResultCache` of one process.

    Args:
        max_bytes: limit on the bytes of all answers together.
        ttl_s: lifetime of an answer in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._num_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """Return the answer, or None if it is not cached or has expired."""
        if key not in self._entries:
            return None
        until_s, answer = self._entries[key]
        if until_s <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return answer

    async def put(self, key: str, answer: bytes) -> None:
        """Store an answer and evict the least recently used ones. An answer larger than `max_bytes` is not stored."""
        if key in self._entries:
            self._drop(key)
        if len(answer) > self._max_bytes:
            return
        self._entries[key] = (self._clock() + self._ttl_s, answer)
        self._num_bytes += len(answer)
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        self._num_bytes -= len(self._entries.pop(key)[1])
