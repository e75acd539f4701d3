"""Files for answers in progress: in memory while small, then unnamed files on disk. Counted against the spool."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from service.domain.errors import ServiceError

# EFBIG comes from a limit on the size of a file (RLIMIT_FSIZE, or the file system's own).
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolRoom(Protocol):
    """Counter of the bytes: a `Spool`."""

    @property
    def directory(self) -> Path:
        """Return the folder of the files."""
        ...

    def reserve(self, num_bytes: int, *, party: str = "") -> None:
        """Reserve bytes; raises `storage_full`."""
        ...

    def release(self, num_bytes: int, *, party: str = "") -> None:
        """Release bytes."""
        ...

    def reserve_memory(self, num_bytes: int) -> bool:
        """Reserve bytes in memory. Return False if there is no room."""
        ...

    def release_memory(self, num_bytes: int) -> None:
        """Release bytes in memory."""
        ...


class SpoolFile:
    """A file with one writer and one reader, each at its own position.

    Args:
        room: counts its bytes.
        party: owner of the bytes, for a fair share of the spool.
        max_bytes: most bytes; more raises `storage_full`.
        memory_bytes: size up to which it stays in memory, if the spool's memory has room.
    """

    def __init__(self, room: SpoolRoom, *, party: str = "", max_bytes: int, memory_bytes: int = 0) -> None:
        self._room = room
        self._party = party
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._file: IO[bytes] = io.BytesIO()
        self._is_on_disk = False
        self._size = 0
        self._read_at = 0
        self._is_closed = False

    @property
    def size(self) -> int:
        """Return the number of bytes written."""
        return self._size

    @property
    def is_on_disk(self) -> bool:
        """Return whether the file is on disk."""
        return self._is_on_disk

    def fileno(self) -> int:
        """Return the descriptor of the file, which must be on disk; with `memory_bytes` 0 it always is."""
        return self._file.fileno()

    def write(self, data: bytes) -> None:
        """Append data; raises ServiceError `storage_full`."""
        if self._size + len(data) > self._max_bytes:
            raise ServiceError("storage_full", f"The answer waits to be read and has reached {self._max_bytes} bytes.")
        self._reserve(len(data))
        try:
            self._file.seek(self._size)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise storage_error(error, what="answers") from error
        self._size += len(data)

    def read(self, num_bytes: int) -> bytes:
        """Return up to `num_bytes` from the reader's position."""
        self._file.seek(self._read_at)
        data = self._file.read(num_bytes)
        self._read_at += len(data)
        return data

    def readline(self) -> bytes:
        """Return a line from the reader's position."""
        self._file.seek(self._read_at)
        line = self._file.readline()
        self._read_at += len(line)
        return line

    def rewind(self) -> None:
        """Move the reader to the start."""
        self._read_at = 0

    def clear(self) -> None:
        """Drop all bytes; the file can be written again."""
        self._release()
        self._file.seek(0)
        self._file.truncate()
        self._size = self._read_at = 0

    def close(self) -> None:
        """Free the bytes. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._release()
            self._file.close()

    def __enter__(self) -> SpoolFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reserve(self, num_bytes: int) -> None:
        if not self._is_on_disk:
            fits = self._size + num_bytes <= self._memory_bytes
            if fits and self._room.reserve_memory(num_bytes):
                return
            self._move_to_disk()
        self._room.reserve(num_bytes, party=self._party)

    def _move_to_disk(self) -> None:
        self._room.reserve(self._size, party=self._party)
        try:
            self._room.directory.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._room.directory, prefix="answer-")  # noqa: SIM115 - closed by close()
            self._file.seek(0)
            file.write(self._file.read())
            file.flush()
        except OSError as error:
            self._room.release(self._size, party=self._party)
            raise storage_error(error, what="answers") from error
        self._room.release_memory(self._size)
        self._file = file
        self._is_on_disk = True

    def _release(self) -> None:
        if self._is_on_disk:
            self._room.release(self._size, party=self._party)
        else:
            self._room.release_memory(self._size)


def storage_error(error: OSError, *, what: str) -> ServiceError:
    """Return what a caller is told of a failed write: `storage_full`, or `backend_down` for any other reason.

    Args:
        error: of the operating system.
        what: the disk holds, such as "uploads".
    """
    if error.errno in _FULL_ERRNOS:
        return ServiceError("storage_full", f"The disk that holds {what} is full; try again later.", retry_after_s=5.0)
    return ServiceError("backend_down", f"The folder of {what} cannot be written.")
