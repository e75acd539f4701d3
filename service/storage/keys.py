"""Idempotency keys of a single process: in memory, each remembered reply also a line of a file, for a restart."""

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

logger = logging.getLogger(__name__)

_MAX_KEYS = 100_000
"""At about 200 bytes each, 20 MB; beyond it the oldest are forgotten early."""
_LEAST_LINES = 1000
"""A shorter file is not written anew."""


class FolderKeyStore:
    """`ports.KeyStore` of one process.

    A key that is in use lives in memory only: its request ends with the process, and the key is free again. What a key
    was answered with is appended to a file and flushed to the disk before the caller is told.

    Args:
        path: the file, in a folder that exists; None keeps keys in memory only.
        wall_clock: seconds since 1970, since remembered keys outlive the process.

    Raises:
        OSError: the file can be neither read nor written.
    """

    def __init__(self, path: Path | None, *, wall_clock: Clock) -> None:
        self._path = path
        self._clock = wall_clock
        self._records: dict[str, tuple[float, KeyRecord]] = {}
        self._num_lines, self._rewrite_at = 0, _LEAST_LINES
        self._is_torn = False
        self._writing = asyncio.Lock()
        if path is not None and path.exists():
            self._records = _load(path, now_s=wall_clock())
            lines = self._lines()
            _rewrite(path, lines)
            self._was_written(lines)

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
        """Remember; raises ServiceError `storage_full` where the file takes no more."""
        until_s = self._clock() + ttl_s
        self._records[scope] = (until_s, record)
        if self._path is not None:
            writing = asyncio.ensure_future(self._write(self._path, _line(scope, until_s, record)))
            await asyncio.shield(writing)

    async def forget(self, scope: str) -> None:
        """Forget a key that was in use; nothing of it is in the file."""
        self._records.pop(scope, None)

    async def _write(self, path: Path, line: bytes) -> None:
        async with self._writing:
            try:
                if self._num_lines >= self._rewrite_at or self._is_torn:
                    self._tidy(self._clock(), is_thorough=True)
                    lines = self._lines()
                    await asyncio.to_thread(_rewrite, path, lines)
                    self._was_written(lines)
                else:
                    await asyncio.to_thread(_append, path, line)
                    self._num_lines += 1
            except OSError as error:
                self._is_torn = True  # half a line may be there: it must not swallow the next one
                raise ServiceError("storage_full", "The key cannot be remembered; try again later.") from error

    def _was_written(self, lines: Sequence[bytes]) -> None:
        """The file is new; it is written anew when it has doubled."""
        self._num_lines, self._is_torn = len(lines), False
        self._rewrite_at = max(_LEAST_LINES, 2 * len(lines))

    def _lines(self) -> list[bytes]:
        """Of what is remembered; a key in use is not."""
        return [
            _line(scope, until_s, record)
            for scope, (until_s, record) in self._records.items()
            if record.reply is not None
        ]

    def _tidy(self, now_s: float, *, is_thorough: bool = False) -> None:
        if is_thorough or len(self._records) >= _MAX_KEYS:
            self._records = {scope: entry for scope, entry in self._records.items() if entry[0] > now_s}
        while len(self._records) >= _MAX_KEYS:
            del self._records[next(iter(self._records))]


def _line(scope: str, until_s: float, record: KeyRecord) -> bytes:
    reply = (record.reply or b"").decode("latin-1")
    return json.dumps([scope, until_s, record.fingerprint, reply]).encode() + b"\n"


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, lines: Sequence[bytes]) -> None:
    """Either the old or the new file survives a crash."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    _append(fresh, b"".join(lines))
    fresh.replace(path)


def _load(path: Path, *, now_s: float) -> dict[str, tuple[float, KeyRecord]]:
    """The keys that are still remembered; a line that a crash cut short was never answered for, and is left out."""
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
