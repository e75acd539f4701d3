"""The folder of uploads and answers in progress, with limits on its size and on each caller's share."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from service.domain.caller import ANONYMOUS, Caller
from service.domain.errors import ServiceError
from service.media.spool_file import SpoolFile, storage_error
from service.media.upload import Upload

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
