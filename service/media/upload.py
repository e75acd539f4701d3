"""One upload on disk: bounded, hashed while it arrives, readable by a decoder while it grows."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Protocol

from service.domain.caller import Caller
from service.domain.errors import ServiceError

# Smaller pieces are written on the event loop: writing and hashing 256 KiB takes under 0.3 ms.
_INLINE_BYTES = 256 * 1024


class UploadRoom(Protocol):
    """Counter of the bytes: a `Spool`."""

    def receive(self, num_bytes: int, caller: Caller) -> None:
        """Reserve the bytes of a piece of an upload; raises `storage_full`."""
        ...

    def release(self, num_bytes: int, *, party: str = "") -> None:
        """Release bytes."""
        ...

    def note_failure(self, error: OSError) -> ServiceError:
        """Return a failed write as a ServiceError."""
        ...


class Upload:
    """Encoded bytes of one request. It has one writer; any number of readers may wait for it to grow."""

    def __init__(self, room: UploadRoom, *, write_fd: int, read_fd: int, max_bytes: int, caller: Caller) -> None:
        self._room = room
        self._caller = caller
        self._write_fd = write_fd
        self._read_fd = read_fd
        self._is_kept = False
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
        """Return the number of bytes written so far."""
        return self._size

    @property
    def is_complete(self) -> bool:
        """Return whether all bytes have arrived."""
        return self._is_complete

    @property
    def is_closed(self) -> bool:
        """Return whether the bytes were freed."""
        return self._is_closed

    @property
    def sha256(self) -> str:
        """Return the hex digest of the bytes so far; of the whole upload once it is complete."""
        return self._hash.hexdigest()

    @property
    def fd(self) -> int:
        """Return a read-only descriptor of the bytes, owned by the upload; read it with `os.pread`."""
        return self._read_fd

    async def write(self, data: bytes) -> None:
        """Append a piece.

        Raises:
            ServiceError: `upload_too_large`, `storage_full`, or the error of `abort`.
        """
        async with self._writing:
            self._check_open()
            if self._size + len(data) > self._max_bytes:
                raise ServiceError(
                    "upload_too_large", f"The upload is over the limit of {self._max_bytes} bytes; send a smaller file."
                )
            self._room.receive(len(data), self._caller)
            self._reserved += len(data)
            try:
                if len(data) <= _INLINE_BYTES:
                    self._append(data)
                else:
                    await _finish_in_thread(self._append, data)
            except OSError as error:
                raise self._room.note_failure(error) from error
            self._size += len(data)
        self._notify()

    def finish(self) -> None:
        """Mark the upload as complete and wake its readers."""
        self._is_complete = True
        self._notify()

    def abort(self, error: ServiceError) -> None:
        """Abort the upload: waiting readers get `error`."""
        if not self._is_complete and self._error is None:
            self._error = error
            self._notify()

    def retain(self) -> None:
        """Add an owner. The bytes stay until every owner has closed the upload."""
        self._num_owners += 1

    def keep(self) -> None:
        """Make `drop` do nothing, because the bytes are read again after decoding."""
        self._is_kept = True

    def drop(self) -> None:
        """Free the bytes although owners may still have the upload open, because nobody will read them. Idempotent."""
        if not self._is_closed and not self._is_kept:
            self._num_owners = 1
            self.close()

    def close(self) -> None:
        """Close the upload for one owner. The last one frees the bytes and their room; then idempotent."""
        self._num_owners -= 1
        if self._is_closed or self._num_owners > 0:
            return
        self._is_closed = True
        os.close(self._write_fd)
        os.close(self._read_fd)
        self._room.release(self._reserved, party=self._caller.party)
        self.abort(ServiceError("client_gone", "The upload was aborted before it was complete."))

    async def wait_for(self, num_bytes: int) -> int:
        """Wait until the upload has `num_bytes` or is complete, and return its size.

        Raises:
            ServiceError: the error of `abort`.
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
    """Run the write in a thread and wait for its end even if cancelled, so that the descriptor stays open meanwhile."""
    assert callable(function)
    future = asyncio.get_running_loop().run_in_executor(None, function, data)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
