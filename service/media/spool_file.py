"""Files for answers on their way: in memory while they are small, then nameless on disk; counted against the spool."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from service.domain.errors import ServiceError

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolRoom(Protocol):
    """Where the bytes are counted: a `Spool`."""

    @property
    def directory(self) -> Path:
        """Folder of the files."""
        ...

    def reserve(self, num_bytes: int, *, party: str = "") -> None:
        """Count bytes in; raises `storage_full`."""
        ...

    def release(self, num_bytes: int, *, party: str = "") -> None:
        """Count bytes out."""
        ...

    def reserve_memory(self, num_bytes: int) -> bool:
        """Count bytes in memory in; False where they do not fit."""
        ...

    def release_memory(self, num_bytes: int) -> None:
        """Count bytes in memory out."""
        ...


class SpoolFile:
    """A file with one writer and one reader, each at its own position.

    Args:
        room: where its bytes are counted.
        party: whose bytes they are, for a fair share of the spool.
        max_bytes: most bytes it may hold; more is `storage_full`.
        memory_bytes: up to here it stays in memory, if the spool's memory has room.
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
        """Bytes written."""
        return self._size

    @property
    def is_on_disk(self) -> bool:
        """Whether it has left memory."""
        return self._is_on_disk

    def fileno(self) -> int:
        """Return the descriptor of the file; only of one that is on disk, which one with `memory_bytes` 0 always is."""
        return self._file.fileno()

    def write(self, data: bytes) -> None:
        """Append; raises ServiceError `storage_full`."""
        if self._size + len(data) > self._max_bytes:
            raise ServiceError("storage_full", f"The answer waits to be read and has reached {self._max_bytes} bytes.")
        self._reserve(len(data))
        try:
            self._file.seek(self._size)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise _storage_error(error) from error
        self._size += len(data)

    def read(self, num_bytes: int) -> bytes:
        """Return up to `num_bytes` from the reader's position on."""
        self._file.seek(self._read_at)
        data = self._file.read(num_bytes)
        self._read_at += len(data)
        return data

    def readline(self) -> bytes:
        """Return a line from the reader's position on."""
        self._file.seek(self._read_at)
        line = self._file.readline()
        self._read_at += len(line)
        return line

    def rewind(self) -> None:
        """Read from the start again."""
        self._read_at = 0

    def clear(self) -> None:
        """Drop all bytes; the file can be written again."""
        self._release()
        self._file.seek(0)
        self._file.truncate()
        self._size = self._read_at = 0

    def close(self) -> None:
        """Free the bytes (idempotent)."""
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
            raise _storage_error(error) from error
        self._room.release_memory(self._size)
        self._file = file
        self._is_on_disk = True

    def _release(self) -> None:
        if self._is_on_disk:
            self._room.release(self._size, party=self._party)
        else:
            self._room.release_memory(self._size)


def _storage_error(error: OSError) -> ServiceError:
    what = "The disk that holds answers is full" if error.errno in _FULL_ERRNOS else "The answer could not be stored"
    return ServiceError("storage_full", f"{what}; try again later.", retry_after_s=5.0)
