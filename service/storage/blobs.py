"""Blobs in a folder or in an S3-compatible store, through obstore (one code path for both).

Large blobs are read by ranges and written from a thread, because obstore's asynchronous byte streams can abort the
interpreter at exit.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from service.domain.errors import ServiceError
from service.storage.room import StateRoom

if TYPE_CHECKING:
    from obstore.store import RetryConfig  # of its stubs only

_PIECE_BYTES = 4 * 1024**2
# Message of obstore for a full disk (ENOSPC, EDQUOT, EFBIG). Its exceptions have no errno.
_FULL = re.compile(r"os error (28|122|27)\)")
_FAILURES = (BaseError, OSError)
# obstore's defaults would block a request for three minutes while the store is unreachable.
_RETRIES: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}

logger = logging.getLogger(__name__)


class Blobs:
    """Persistent named blobs. Every call may raise `backend_down` or `storage_full`.

    Args:
        location: a folder, or a URL such as `s3://bucket/prefix`. Endpoint and credentials of an object store come from
            the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL (a store that is not
            AWS), AWS_ALLOW_HTTP=true (a store without TLS); on AWS itself from the role of the instance or pod.

        room: bounds the bytes of a folder; beyond it writes raise `storage_full`. A store behind a URL has its own
            quota and is not counted.

    Raises:
        ValueError: the scheme of the URL is not supported.
    """

    def __init__(self, location: str | Path, *, room: StateRoom | None = None) -> None:
        self._store: ObjectStore
        self._room = StateRoom()
        if isinstance(location, Path) or "://" not in location:
            self._store = LocalStore(Path(location).expanduser(), mkdir=True)
            self._room = room or self._room
        else:
            try:
                self._store = from_url(location, retry_config=_RETRIES)
            except BaseError as error:
                raise ValueError(f"no blob store at {location.partition('://')[0]}://…") from error

    async def put(self, name: str, data: bytes) -> None:
        """Store bytes."""
        with self._room.writing(len(data)):
            try:
                await obstore.put_async(self._store, name, data)
            except _FAILURES as error:
                raise _down(error) from error

    async def put_file(self, name: str, fd: int, *, num_bytes: int) -> None:
        """Store the first `num_bytes` of an open file."""
        with self._room.writing(num_bytes):
            writing = asyncio.get_running_loop().run_in_executor(None, self._put_file, name, fd, num_bytes)
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])  # the caller may close the descriptor only after the thread has finished
                if not writing.cancelled() and writing.exception() is None:
                    self._room.add(num_bytes)
                raise
            except _FAILURES as error:
                raise _down(error) from error

    async def delete(self, name: str) -> None:
        """Delete a blob. A missing blob is not an error."""
        try:
            await asyncio.to_thread(self._delete, name)
        except _FAILURES as error:
            raise _down(error) from error

    async def get(self, name: str) -> bytes | None:
        """Return all bytes of a blob, or None if it does not exist."""
        try:
            answer = await obstore.get_async(self._store, name)
            return bytes(await answer.bytes_async())
        except FileNotFoundError:
            return None
        except _FAILURES as error:
            raise _down(error) from error

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob in pieces. Raises `internal` if it does not exist."""
        try:
            num_bytes = (await obstore.head_async(self._store, name))["size"]
            for start in range(0, num_bytes, _PIECE_BYTES):
                end = min(num_bytes, start + _PIECE_BYTES)
                yield bytes(await obstore.get_range_async(self._store, name, start=start, end=end))
        except FileNotFoundError as error:
            raise ServiceError("internal", "A stored file is missing.") from error
        except _FAILURES as error:
            raise _down(error) from error

    async def delete_all(self, prefix: str, *, older_than_s: float = 0.0) -> None:
        """Delete all blobs under a prefix that are at least `older_than_s` old."""
        try:
            await asyncio.to_thread(self._delete_all, prefix, timedelta(seconds=older_than_s))
        except _FAILURES as error:
            raise _down(error) from error

    def _put_file(self, name: str, fd: int, num_bytes: int) -> None:
        obstore.put(self._store, name, io.BufferedReader(_PreadFile(fd, num_bytes), _PIECE_BYTES))

    def _delete_all(self, prefix: str, age: timedelta) -> None:
        before = datetime.now(UTC) - age
        for entries in obstore.list(self._store, prefix=prefix):
            for entry in entries:
                if age and entry["last_modified"] > before:
                    continue
                self._delete(entry["path"], num_bytes=entry["size"])

    def _delete(self, name: str, *, num_bytes: int | None = None) -> None:
        try:
            size = obstore.head(self._store, name)["size"] if num_bytes is None else num_bytes
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return  # another process has deleted it
        self._room.add(-size)


class _PreadFile(io.RawIOBase):
    """File object that reads with `pread`, so that the position of the descriptor does not change."""

    def __init__(self, fd: int, num_bytes: int) -> None:
        super().__init__()
        self._fd = fd
        self._num_bytes = num_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what CPython passes
        data = os.pread(self._fd, min(len(buffer), max(0, self._num_bytes - self._at)), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _down(error: Exception) -> ServiceError:
    if (isinstance(error, OSError) and error.errno is not None) or _FULL.search(str(error)):
        return ServiceError("storage_full", "The blob store is full; try again later.", retry_after_s=30.0)
    logger.warning("the blob store failed", extra={"reason": f"{type(error).__name__}: {str(error)[:300]}"})
    return ServiceError("backend_down", "The blob store does not respond; try again.", retry_after_s=5.0)
