"""Uploads on disk: bounded, hashed while they arrive, readable by a decoder while they grow."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from service.domain.caller import ANONYMOUS, Caller
from service.domain.errors import ServiceError
from service.media.spool_file import SpoolFile, storage_error

# Smaller pieces are written on the event loop: writing and hashing 256 KiB takes under 0.3 ms.
_INLINE_BYTES = 256 * 1024
# A caller may occupy this many times the free bytes (dynamic thresholds, as in `service/core/admission.py`).
_ROOM_FACTOR = 4
# Bytes of a probe: one block, so that a completely full file system is noticed.
_PROBE_BYTES = 4096

logger = logging.getLogger(__name__)


class Spool:
    """A folder of uploads and answers in progress, with a limit on their total size.

    One caller may occupy four times the free bytes, so that a single caller cannot fill the folder.

    Args:
        directory: the folder; None uses the system's for temporary files.
        max_bytes: bytes on disk.
        max_memory_bytes: bytes of answers that may stay in memory instead.
        on_received: called with every piece of an upload and its owner.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        max_bytes: int,
        max_memory_bytes: int = 64 * 1024**2,
        on_received: Callable[[Caller, int], None] | None = None,
    ) -> None:
        self._directory = Path(directory) if directory is not None else Path(tempfile.gettempdir())
        self._max_bytes = max_bytes
        self._max_memory_bytes = max_memory_bytes
        self._on_received = on_received
        self._used_bytes = 0
        self._failure: ServiceError | None = None
        self._memory_bytes = 0
        self._bytes_of: Counter[str] = Counter()

    @property
    def directory(self) -> Path:
        """Return the folder."""
        return self._directory

    @property
    def used_bytes(self) -> int:
        """Return the bytes on disk of the open uploads and answers."""
        return self._used_bytes

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of answers in memory."""
        return self._memory_bytes

    @property
    def max_bytes(self) -> int:
        """Return the limit on disk."""
        return self._max_bytes

    def probe(self) -> ServiceError | None:
        """Write an unnamed file and return why that failed, or None. A change of the result is logged once."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory, prefix="probe-") as file:
                file.write(b"\0" * _PROBE_BYTES)
        except OSError as error:
            return self.note_failure(error)
        if self._failure is not None:
            logger.info("the spool can be written again", extra={"folder": str(self._directory)})
        self._failure = None
        return None

    def failure(self) -> ServiceError | None:
        """Return why uploads cannot be stored now, or None. Probes the disk only after a failure."""
        return None if self._failure is None else self.probe()

    def note_failure(self, error: OSError) -> ServiceError:
        """Return a failed write as a ServiceError, remember it for `failure`, and log the first of several."""
        if self._failure is None:
            logger.warning(
                "the spool cannot be written",
                extra={"folder": str(self._directory), "reason": f"{type(error).__name__}: {error.strerror}"},
            )
        self._failure = storage_error(error, what="uploads")
        return self._failure

    async def open_upload(self, *, max_bytes: int, caller: Caller = ANONYMOUS) -> Upload:
        """Return a new, empty upload of at most `max_bytes`.

        Raises:
            ServiceError: `storage_full`.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_fd, path = tempfile.mkstemp(prefix="upload-", dir=self._directory)
        except OSError as error:
            raise self.note_failure(error) from error
        try:
            read_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(write_fd)
            raise self.note_failure(error) from error
        finally:
            os.unlink(path)  # unnamed from here on, so that nothing is left behind however this process ends
        return Upload(self, write_fd=write_fd, read_fd=read_fd, max_bytes=max_bytes, caller=caller)

    def open_answer(self, *, max_bytes: int, memory_bytes: int = 0, party: str = "") -> SpoolFile:
        """Return a new, empty file for an answer of at most `max_bytes`; on disk if memory does not suffice."""
        return SpoolFile(self, party=party, max_bytes=max_bytes, memory_bytes=memory_bytes)

    def receive(self, num_bytes: int, caller: Caller) -> None:
        """Reserve the bytes of a piece of an upload; raises `storage_full`."""
        self.reserve(num_bytes, party=caller.party)
        if self._on_received is not None:
            self._on_received(caller, num_bytes)

    def reserve(self, num_bytes: int, *, party: str = "") -> None:
        """Reserve bytes; raises `storage_full` if there is no room or `party` has more than its share."""
        used_bytes = self._used_bytes + num_bytes
        is_over_share = bool(party) and self._bytes_of[party] + num_bytes > _ROOM_FACTOR * (
            self._max_bytes - used_bytes
        )
        if used_bytes > self._max_bytes or is_over_share:
            raise ServiceError(
                "storage_full",
                f"Uploads and answers in progress fill the spool ({self._max_bytes} bytes); try again later.",
                retry_after_s=5.0,
            )
        self._used_bytes = used_bytes
        self._bytes_of[party] += num_bytes

    def release(self, num_bytes: int, *, party: str = "") -> None:
        """Release bytes."""
        self._used_bytes -= num_bytes
        self._bytes_of[party] -= num_bytes
        if not self._bytes_of[party]:
            del self._bytes_of[party]

    def reserve_memory(self, num_bytes: int) -> bool:
        """Reserve bytes in memory. Return False if there is no room."""
        if self._memory_bytes + num_bytes > self._max_memory_bytes:
            return False
        self._memory_bytes += num_bytes
        return True

    def release_memory(self, num_bytes: int) -> None:
        """Release bytes in memory."""
        self._memory_bytes -= num_bytes


class Upload:
    """Encoded bytes of one request. It has one writer; any number of readers may wait for it to grow."""

    def __init__(self, spool: Spool, *, write_fd: int, read_fd: int, max_bytes: int, caller: Caller) -> None:
        self._spool = spool
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
            self._spool.receive(len(data), self._caller)
            self._reserved += len(data)
            try:
                if len(data) <= _INLINE_BYTES:
                    self._append(data)
                else:
                    await _finish_in_thread(self._append, data)
            except OSError as error:
                raise self._spool.note_failure(error) from error
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
        self._spool.release(self._reserved, party=self._caller.party)
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
