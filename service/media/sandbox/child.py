"""A jailed child with its job: limits itself, decodes one upload (or single pictures), reports to its parent."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.media import framing
from service.media.policy import DecodeJob
from service.media.sandbox.confinement import jail
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.decoding.clip_decode import Tracks, decode_clip
from service.media.sandbox.decoding.stills import serve_stills
from service.media.sandbox.source import UploadSource

# CPU seconds of a job before its clip is known.
_BASE_CPU_S = 10.0
# CPU seconds for all pictures of a child: a thousand of the largest size take about half of it.
_STILLS_CPU_S = 300.0
# Address space beyond the estimate: libav caches buffers, and the C library maps memory in large steps.
_MEMORY_MARGIN, _MEMORY_SLACK_BYTES = 2, 128 * 1024**2
# Bytes per pixel of a JPEG decoder: coefficients of three planes (progressive), the picture and its copies.
_STILL_BYTES_PER_PIXEL = 24


@dataclass(frozen=True, slots=True)
class Confinement:
    """Restrictions that a child applies to itself when it knows its job.

    Attributes:
        base_bytes: address space of a child before it decodes anything.
        filter_with_job: filter to install when the limits are set; None without filters.
    """

    base_bytes: int = 0
    filter_with_job: bytes | None = None

    def limit_for(self, num_bytes: int) -> int:
        """Return the address space of a child whose memory is estimated as `num_bytes`; includes a margin."""
        return self.base_bytes + _MEMORY_MARGIN * num_bytes + _MEMORY_SLACK_BYTES

    def close(self) -> None:
        """Install the last filter. After that, this process can neither get descriptors nor change its limits."""
        if self.filter_with_job is not None and not jail.install(self.filter_with_job):
            os._exit(1)


def run_child(kind: str, fields: dict[str, Any], fds: list[int], confinement: Confinement) -> None:
    """Decode what the parent asked for; returns when the process may exit.

    Args:
        kind: `clip` (fds: talk, upload) or `stills` (fds: talk).
        fields: the job.
        fds: this child's descriptors; all others are closed.
        confinement: the part of the jail that depends on the job.
    """
    if kind == "clip":
        run_on_upload(_run_clip, fields, fds, confinement)
        return
    pipe = Pipe(fds[0])
    with contextlib.suppress(BrokenPipeError, ConnectionError, EOFError):  # the parent is gone
        num_bytes = _STILL_BYTES_PER_PIXEL * int(fields["max_pixels"])
        jail.limit_memory(min(int(fields["memory_bytes"]), confinement.limit_for(num_bytes)))
        jail.limit_cpu(_STILLS_CPU_S)
        confinement.close()
        serve_stills(pipe.read_exactly, pipe.write, max_pixels=int(fields["max_pixels"]))


def run_on_upload(
    work: Callable[[DecodeJob, Pipe, int, Confinement], None],
    fields: dict[str, Any],
    fds: list[int],
    confinement: Confinement,
) -> None:
    """Do work on an upload and send its errors to the parent.

    Args:
        work: gets the job, the socket, the upload's descriptor and what is left to confine.
        fields: the job.
        fds: the socket and the upload.
        confinement: the part of the jail that depends on the job.
    """
    pipe = Pipe(fds[0])
    with contextlib.suppress(BrokenPipeError, ConnectionError, EOFError):  # the parent is gone
        jail.limit_cpu(_BASE_CPU_S)
        with _failures_sent(pipe):
            job = framing.unpack_job(fields)
            jail.limit_memory(job.policy.memory_bytes)
            work(job, pipe, fds[1], confinement)


def _run_clip(job: DecodeJob, pipe: Pipe, upload_fd: int, confinement: Confinement) -> None:
    source = UploadSource(upload_fd, size_bytes=job.size_bytes, is_complete=job.is_complete, need=pipe.wait_for_bytes)
    scanner, tracks = scan(job, source)
    num_bytes = scanner.decoder_memory_bytes()
    if num_bytes > job.policy.max_growing_bytes:
        source.complete()
    if num_bytes > job.policy.granted_bytes:
        pipe.wait_for_memory(num_bytes)
    jail.limit_memory(min(job.policy.memory_bytes, confinement.limit_for(num_bytes)))
    jail.limit_cpu(scanner.cpu_budget_s())
    confinement.close()
    clip = decode_clip(job, source, pipe, tracks=tracks)
    if source.is_complete:
        scanner.rest()
    pipe.write(framing.pack_clip(framing.END, clip))


@contextmanager
def _failures_sent(pipe: Pipe) -> Iterator[None]:
    """Send errors of the body to the parent."""
    try:
        yield
    except ServiceError as error:
        pipe.write(framing.pack_error(error))
    except (BrokenPipeError, ConnectionError, EOFError):
        raise
    except MemoryError:
        pipe.write(framing.pack_error(_no_memory()))
    except Exception as error:
        pipe.write(framing.pack_error(_unexpected(), cause=_describe(error)))


def scan(job: DecodeJob, source: UploadSource) -> tuple[Scanner, Tracks]:
    """Check the upload's structure. A part that has not arrived yet is checked when FFmpeg needs it.

    Raises:
        ServiceError: the file is refused.
    """
    scanner = Scanner(source, job.policy, audio_track=job.audio_track)
    index = scanner.head()
    if not scanner.is_streamable:
        source.complete()
    if source.is_complete:
        scanner.rest()
    else:
        source.guard(scanner.vet)
    tracks = Tracks(
        picture=index.picture.track_id,
        sound=index.sound.track_id,
        sound_index=index.sound_index,
        language=index.sound.language,
        media_s=index.picture.duration_s,
        edit_s=index.picture.edit_ticks / index.timescale if index.timescale else 0.0,
        sound_s=scanner.sound_s,
        sound_edit_s=index.sound.edit_ticks / index.timescale if index.timescale else 0.0,
        aperture=index.picture.aperture,
        is_fragmented=index.is_fragmented,
    )
    return scanner, tracks


def _no_memory() -> ServiceError:
    return ServiceError("too_costly", "The clip needs more memory to decode than a decoder has.")


def _unexpected() -> ServiceError:
    return ServiceError("broken", "The file is damaged: its index or media cannot be read. Export the clip again.")


def _describe(error: Exception) -> str:
    """Return the exception's type and the last line of code it passed, for the parent's log."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}"


class Pipe:
    """The child's end of its socket, with plain read and write, because the filter allows no socket calls."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def clip(self, clip: ClipInfo) -> None:
        """Send the description of the clip."""
        self.write(framing.pack_clip(framing.CLIP, clip))

    def block(self, block: SampleBlock) -> None:
        """Send samples; waits while the parent does not read."""
        for part in framing.pack_block(block):
            self.write(part)

    def piece(self, data: bytes) -> None:
        """Send bytes of a file."""
        for at in range(0, len(data), framing.MAX_PIECE_BYTES):
            self.write(framing.pack(framing.PIECE, data[at : at + framing.MAX_PIECE_BYTES]))

    def progress(self) -> None:
        """Report progress."""
        self.write(framing.pack(framing.PROGRESS))

    def wait_for_bytes(self, num_bytes: int) -> tuple[int, bool]:
        """Request growth of the upload and wait for it. Return its size and whether it is complete."""
        self.write(framing.pack_need(num_bytes))
        size, is_complete = framing.GROWN.unpack(self.read_exactly(framing.GROWN.size))
        return int(size), bool(is_complete)

    def wait_for_memory(self, num_bytes: int) -> None:
        """Request memory and wait until it is granted."""
        self.write(framing.pack_memory(num_bytes))
        self.read_exactly(len(framing.MEMORY_GRANTED))

    def write(self, data: bytes | memoryview) -> None:
        """Write all of the data."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def read_exactly(self, num_bytes: int) -> bytes:
        """Read exactly this many bytes; raises EOFError if the parent closes before."""
        parts: list[bytes] = []
        while num_bytes:
            part = os.read(self._fd, min(num_bytes, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)
