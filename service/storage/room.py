"""One bound on everything that is kept on the state disk: uploads and answers of jobs, their records, replies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.domain.errors import ServiceError

_RETRY_S = 30.0


class StateRoom:
    """Counts the bytes of some folders against one limit. Each writer announces what it writes and what it frees.

    Processes that share a folder see each other's bytes after `measure`.

    Args:
        folders: the folders, each with everything below it; folders inside another one are counted once.
        max_bytes: most bytes of all files together; beyond this `writing` and `reserve` raise `storage_full`. None
            sets no limit.
    """

    def __init__(self, folders: Sequence[Path] = (), *, max_bytes: int | None = None) -> None:
        resolved = sorted({folder.expanduser().resolve() for folder in folders})
        self._folders = [one for one in resolved if not any(other in one.parents for other in resolved)]
        self._max_bytes = max_bytes
        self._open_bytes = 0
        self._stored_bytes = self._measure()
        self._added_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes on disk by the last measurement and later changes, and bytes that are reserved."""
        return self._stored_bytes + self._open_bytes

    def reserve(self, num_bytes: int) -> None:
        """Reserve bytes that will be written later; raises ServiceError `storage_full`. End it with `release`."""
        if self._max_bytes is not None and self.used_bytes + num_bytes > self._max_bytes:
            raise ServiceError(
                "storage_full", "The storage for uploads and answers is full; try again later.", retry_after_s=_RETRY_S
            )
        self._open_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """End a reservation."""
        self._open_bytes -= num_bytes

    @contextmanager
    def writing(self, num_bytes: int) -> Iterator[None]:
        """Around a write: reserve its bytes, and count them as stored unless the body raises.

        Raises:
            ServiceError: `storage_full`, before the body.
        """
        self.reserve(num_bytes)
        try:
            yield
        finally:
            self.release(num_bytes)
        self.add(num_bytes)

    def add(self, num_bytes: int) -> None:
        """Count bytes that were written, without a limit; a negative number for bytes that were freed."""
        self._stored_bytes = max(0, self._stored_bytes + num_bytes)
        self._added_bytes += max(0, num_bytes)

    async def measure(self) -> None:
        """Measure the folders again, because other processes may write to them. Raises OSError."""
        if self._max_bytes is None:
            return
        self._added_bytes = 0
        measured_bytes = await asyncio.to_thread(self._measure)
        # What was written meanwhile may have been missed. Counted twice until the next measurement at worst.
        self._stored_bytes = measured_bytes + self._added_bytes

    def _measure(self) -> int:
        return sum(_size(folder) for folder in self._folders)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile do not count."""
    num_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                num_bytes += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return num_bytes
