"""Idempotency keys of a single process: in memory, with an append-only file of replies that survives a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.ports import KeyRecord
from service.storage.room import StateRoom

logger = logging.getLogger(__name__)

# Most keys in memory (20 MB at about 200 bytes each). Beyond this the oldest keys are evicted early.
_MAX_KEYS = 100_000
# A file with fewer lines is not compacted.
_LEAST_LINES = 1000
# Room for one reply that is reserved while its request runs: two hashes of 64 characters, a time and a short document.
_LINE_BYTES = 1024


class FolderKeyStore:
    """`ports.KeyStore` of one process.

    A key in use is in memory only: its request ends with the process, which releases the key. A reply is appended to
    the file and flushed to disk before `finish` returns.

    Args:
        path: the file, in a folder that exists; None keeps keys in memory only.
        wall_clock: seconds since 1970, because expiry times are compared across restarts.
        room: bounds the bytes of the file. A key is acquired only if there is room for its reply.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, *, wall_clock: Clock, room: StateRoom | None = None) -> None:
        self._path = path
        self._room = room or StateRoom()
        self._file_bytes = 0
        self._clock = wall_clock
        self._records: dict[str, tuple[float, KeyRecord]] = {}
        self._num_lines, self._rewrite_at = 0, _LEAST_LINES
        self._is_torn = False
        self._writing = asyncio.Lock()
        if path is not None and path.exists():
            self._records = _load(path, now_s=wall_clock())
            self._file_bytes = path.stat().st_size
            lines = self._lines()
            _rewrite(path, lines)
            self._was_written(lines)

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        """Acquire a key. Return its record if it is already in use or has a reply, else None.

        Raises:
            ServiceError: `storage_full`, there is no room for the reply.
        """
        found = self._find(scope)
        if found is not None:
            return found
        await self._reserve_line()
        found = self._find(scope)  # another request may have acquired it during the wait
        if found is not None:
            self._room.release(_LINE_BYTES)
            return found
        now_s = self._clock()
        self._drop(scope)
        self._tidy(now_s)
        self._records[scope] = (now_s + lease_s, KeyRecord(fingerprint, None))
        return None

    def _find(self, scope: str) -> KeyRecord | None:
        until_s, found = self._records.get(scope, (0.0, None))
        return found if until_s > self._clock() else None

    async def _reserve_line(self) -> None:
        """Reserve room for a reply; compact the file first if it holds expired lines and there is none."""
        try:
            self._room.reserve(_LINE_BYTES)
        except ServiceError:
            self._tidy(self._clock(), is_thorough=True)
            if self._path is None or self._num_lines <= len(self._lines()):
                raise
            async with self._writing:
                try:
                    await self._compact(self._path)
                except OSError as error:
                    raise self._failed() from error
            self._room.reserve(_LINE_BYTES)

    def _drop(self, scope: str) -> None:
        """Remove a key; one that was in use gives its reserved room back."""
        _, record = self._records.pop(scope, (0.0, None))
        if record is not None and record.reply is None:
            self._room.release(_LINE_BYTES)

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """Extend the lease of a key whose request is still running."""
        if scope in self._records:
            self._records[scope] = (self._clock() + lease_s, self._records[scope][1])

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Store the reply of a key. Raises ServiceError `storage_full` if the file cannot be written."""
        until_s = self._clock() + ttl_s
        self._drop(scope)
        self._records[scope] = (until_s, record)
        if self._path is not None:
            writing = asyncio.ensure_future(self._write(self._path, _line(scope, until_s, record)))
            await asyncio.shield(writing)

    async def forget(self, scope: str) -> None:
        """Release a key that was in use. It has no line in the file."""
        self._drop(scope)

    async def _write(self, path: Path, line: bytes) -> None:
        async with self._writing:
            try:
                if self._num_lines >= self._rewrite_at or self._is_torn:
                    self._tidy(self._clock(), is_thorough=True)
                    await self._compact(path)
                else:
                    await asyncio.to_thread(_append, path, line)
                    self._num_lines += 1
                    self._count(self._file_bytes + len(line))
            except OSError as error:
                raise self._failed() from error

    def _failed(self) -> ServiceError:
        """Note that the file may end with half a line, so that it is rewritten before the next append."""
        self._is_torn = True
        return ServiceError("storage_full", "The key cannot be stored; try again later.", retry_after_s=30.0)

    async def _compact(self, path: Path) -> None:
        lines = self._lines()
        await asyncio.to_thread(_rewrite, path, lines)
        self._was_written(lines)

    def _was_written(self, lines: Sequence[bytes]) -> None:
        """Record that the file was compacted. It is compacted again when its length has doubled."""
        self._num_lines, self._is_torn = len(lines), False
        self._count(sum(map(len, lines)))
        self._rewrite_at = max(_LEAST_LINES, 2 * len(lines))

    def _count(self, num_bytes: int) -> None:
        """Count the size of the file."""
        self._room.add(num_bytes - self._file_bytes)
        self._file_bytes = num_bytes

    def _lines(self) -> list[bytes]:
        """Return the lines of all keys with a reply."""
        return [
            _line(scope, until_s, record)
            for scope, (until_s, record) in self._records.items()
            if record.reply is not None
        ]

    def _tidy(self, now_s: float, *, is_thorough: bool = False) -> None:
        if is_thorough or len(self._records) >= _MAX_KEYS:
            for scope in [scope for scope, entry in self._records.items() if entry[0] <= now_s]:
                self._drop(scope)
        while len(self._records) >= _MAX_KEYS:
            self._drop(next(iter(self._records)))


def _line(scope: str, until_s: float, record: KeyRecord) -> bytes:
    reply = (record.reply or b"").decode("latin-1")
    return json.dumps([scope, until_s, record.fingerprint, reply]).encode() + b"\n"


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, lines: Sequence[bytes]) -> None:
    """Replace the file atomically and durably."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    _append(fresh, b"".join(lines))
    fresh.replace(path)


def _load(path: Path, *, now_s: float) -> dict[str, tuple[float, KeyRecord]]:
    """Load the keys that have not expired. Truncated lines are skipped: their callers have received no answer."""
    records: dict[str, tuple[float, KeyRecord]] = {}
    num_unreadable = 0
    for line in path.read_bytes().splitlines():
        try:
            scope, until_s, fingerprint, reply = json.loads(line)
            entry = (float(until_s), KeyRecord(str(fingerprint), str(reply).encode("latin-1")))
        except (ValueError, TypeError):
            num_unreadable += 1
            continue
        records.pop(scope, None)
        if entry[0] > now_s:
            records[scope] = entry
    if num_unreadable:
        logger.warning("lines of the file of idempotency keys are unreadable", extra={"num_lines": num_unreadable})
    return records
