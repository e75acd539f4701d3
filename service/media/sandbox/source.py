"""An upload as FFmpeg reads it: by position, never past what the pre-scan has released, waiting while it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import av
from av.container.input import InputContainer

from service.domain.errors import ServiceError
from service.media.policy import PICTURE_DECODERS, SOUND_DECODERS, MediaPolicy

# Size that a growing upload reports: FFmpeg's MP4 reader needs one, and stops at the index before it matters.
_UNKNOWN_END = 1 << 40

# Waits until the upload has this many bytes or is complete; returns its size and whether it is complete.
Need = Callable[[int], tuple[int, bool]]


class UploadSource:
    """Bytes of an upload behind a descriptor. `exposed` is how far FFmpeg may read now."""

    def __init__(self, fd: int, *, size_bytes: int, is_complete: bool, need: Need) -> None:
        self._fd = fd
        self._need = need
        self.size_bytes = size_bytes
        self.is_complete = is_complete
        self.failure: ServiceError | None = None
        self._vet: Callable[[int], int] | None = None

    def require(self, num_bytes: int) -> bool:
        """Wait until the upload has this many bytes. Return False if it ended before."""
        while self.size_bytes < num_bytes and not self.is_complete:
            self.size_bytes, self.is_complete = self._need(num_bytes)
        return self.size_bytes >= num_bytes

    def complete(self) -> None:
        """Wait for the end of the upload."""
        while not self.is_complete:
            self.size_bytes, self.is_complete = self._need(1 << 62)

    def guard(self, vet: Callable[[int], int]) -> None:
        """Limit reads to `vet(position)` from now on; it may wait, and may raise ServiceError."""
        self._vet = vet

    def pread(self, num_bytes: int, position: int) -> bytes:
        """Return bytes that have already arrived; fewer at the end."""
        return os.pread(self._fd, max(0, min(num_bytes, self.size_bytes - position)), position)

    def read(self, num_bytes: int, position: int) -> bytes:
        """Return at least one byte unless the upload ends before `position`. Waits for the upload to grow."""
        if self.failure is not None:
            return b""
        try:
            if self._vet is not None:
                limit = self._vet(position)
            else:
                self.require(position + 1)
                limit = self.size_bytes
        except ServiceError as error:
            self.failure = error
            raise
        return self.pread(min(num_bytes, limit - position), position) if limit > position else b""

    def check(self) -> None:
        """Raise the error of a failed read, because FFmpeg may have taken it for the end of the file."""
        if self.failure is not None:
            raise self.failure

    def open_container(
        self, policy: MediaPolicy, *, decoders: Iterable[str] = (*PICTURE_DECODERS, *SOUND_DECODERS)
    ) -> InputContainer:
        """Open the upload as a container: MP4 reader only, accepted codecs only, no other file and no protocol.

        Args:
            policy: limits.
            decoders: names of those that FFmpeg may open to learn more about the tracks. For a picture it decodes one
                to twenty frames: 8 of the 194 ms of CPU that ten seconds of 720p took.

        Raises:
            av.FFmpegError: FFmpeg cannot read it.
            ServiceError: a read was refused by the guard.
        """
        options = {
            "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2",
            "protocol_whitelist": "none",
            "codec_whitelist": ",".join(decoders),
            "max_pixels": str(policy.max_coded_pixels),
            "max_streams": str(policy.max_tracks + 2),  # cover art shows as streams beside the tracks
            "threads": "1",
        }
        if not self.is_complete:
            options["fflags"] = "+ignidx"  # do not look for a second index after the media
        container = av.open(_Reader(self), "r", format="mov", options=options, metadata_errors="ignore")
        self.check()
        return container


class _Reader:
    """A read position in the upload, as a file object for av.open. It has no `name` that could be resolved."""

    def __init__(self, source: UploadSource) -> None:
        self._source = source
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes."""
        data = self._source.read(num_bytes, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move relative to the start (0), the current position (1) or the end (2)."""
        end = self._source.size_bytes if self._source.is_complete else _UNKNOWN_END
        base = (0, self._position, end)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position
