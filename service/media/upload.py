"""Uploads on disk: bounded, hashed while they arrive, readable by a decoder while they grow."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from pathlib import Path

from service.domain.errors import ServiceError

_INLINE_BYTES = 256 * 1024
"""Smaller pieces are written on the event loop: a page-cache write and a hash of 256 KiB take under 0.3 ms."""
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class Spool:
    """A folder of uploads with a bound on the bytes they hold together."""

    def __init__(self, directory: Path | str | None = None, *, max_bytes: int) -> None:
        self._directory = Path(directory) if directory is not None else Path(tempfile.gettempdir())
        self._max_bytes = max_bytes
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of the uploads that are open now."""
        return self._used_bytes

    @property
    def max_bytes(self) -> int:
        """The bound."""
        return self._max_bytes

    async def open_upload(self, *, max_bytes: int) -> Upload:
        """A new, empty upload of at most `max_bytes`.

        Raises:
            ServiceError: `storage_full`.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_fd, path = tempfile.mkstemp(prefix="upload-", dir=self._directory)
        except OSError as error:
            raise _storage_error(error) from error
        try:
            read_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(write_fd)
            raise _storage_error(error) from error
        finally:
            os.unlink(path)  # nameless from here on: nothing is left behind, however this process ends
        return Upload(self, write_fd=write_fd, read_fd=read_fd, max_bytes=max_bytes)

    def reserve(self, num_bytes: int) -> None:
        """Count bytes in; raises `storage_full` when they do not fit."""
        if self._used_bytes + num_bytes > self._max_bytes:
            raise ServiceError(
                "storage_full",
                f"The uploads in progress fill the spool ({self._max_bytes} bytes); try again later.",
                retry_after_s=5.0,
            )
        self._used_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Count bytes out."""
        self._used_bytes -= num_bytes


class Upload:
    """Encoded bytes of one request. One writer; any number of readers may wait for it to grow."""

    def __init__(self, spool: Spool, *, write_fd: int, read_fd: int, max_bytes: int) -> None:
        self._spool = spool
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._max_bytes = max_bytes
        self._size = 0
        self._reserved = 0
        self._hash = hashlib.sha256()
        self._is_complete = False
        self._is_closed = False
        self._num_owners = 1
        self._error: ServiceError | None = None
        self._grown = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there."""
        return self._is_complete

    @property
    def is_closed(self) -> bool:
        """Whether the bytes are gone."""
        return self._is_closed

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes so far; of the whole upload once it is complete."""
        return self._hash.hexdigest()

    @property
    def fd(self) -> int:
        """A read-only descriptor of the bytes, owned by the upload; read it with `os.pread`."""
        return self._read_fd

    async def write(self, data: bytes) -> None:
        """Append a piece.

        Raises:
            ServiceError: `upload_too_large`, `storage_full`, or the error the upload was aborted with.
        """
        async with self._writing:
            self._check_open()
            if self._size + len(data) > self._max_bytes:
                raise ServiceError(
                    "upload_too_large", f"The upload is over the limit of {self._max_bytes} bytes; send a smaller file."
                )
            self._spool.reserve(len(data))
            self._reserved += len(data)
            try:
                if len(data) <= _INLINE_BYTES:
                    self._append(data)
                else:
                    await _finish_in_thread(self._append, data)
            except OSError as error:
                raise _storage_error(error) from error
            self._size += len(data)
        self._notify()

    def finish(self) -> None:
        """All bytes are written; readers learn of it."""
        self._is_complete = True
        self._notify()

    def abort(self, error: ServiceError) -> None:
        """The upload will never be complete: readers that wait get `error`."""
        if not self._is_complete and self._error is None:
            self._error = error
            self._notify()

    def retain(self) -> None:
        """One more owner: the bytes stay until each of them has closed the upload."""
        self._num_owners += 1

    def close(self) -> None:
        """Give up the bytes and their room in the spool when the last owner does (idempotent from then on)."""
        self._num_owners -= 1
        if self._is_closed or self._num_owners > 0:
            return
        self._is_closed = True
        os.close(self._write_fd)
        os.close(self._read_fd)
        self._spool.release(self._reserved)
        self.abort(ServiceError("client_gone", "The upload was given up before it was complete."))

    async def wait_for(self, num_bytes: int) -> int:
        """Wait until the upload holds `num_bytes` or is complete; its size then.

        Raises:
            ServiceError: what the upload was aborted with.
        """
        while self._size < num_bytes and not self._is_complete:
            if self._error is not None:
                raise self._error
            await self._grown.wait()
        return self._size

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]
        self._hash.update(data)

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed or self._is_complete:
            raise ServiceError("malformed_body", "Data after the end of the upload.")

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


async def _finish_in_thread(function: object, data: bytes) -> None:
    """Run the write in a thread and see it end even when cancelled, so that the descriptor is not closed under it."""
    assert callable(function)
    future = asyncio.get_running_loop().run_in_executor(None, function, data)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _storage_error(error: OSError) -> ServiceError:
    if error.errno in _FULL_ERRNOS:
        return ServiceError("storage_full", "The disk that holds uploads is full; try again later.", retry_after_s=5.0)
    return ServiceError("internal", "The upload could not be stored.")
