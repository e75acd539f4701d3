"""Decoding in the test's own process, and the contract's rule for frames written down a second time, by plain means."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field

import av
import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox.child import scan
from service.media.sandbox.decoding.clip_decode import decode_clip
from service.media.sandbox.source import UploadSource

SIDE_PX = 32


@dataclass
class Decoded:
    """What came out, all blocks together."""

    clip: ClipInfo
    frames: NDArray[np.uint8]
    windows: NDArray[np.float32]
    sample_times_s: NDArray[np.float64]
    timestamps_s: NDArray[np.float64]
    indexes: NDArray[np.int64]


@dataclass
class ListOutbox:
    """Keeps what it is given."""

    first: ClipInfo | None = None
    blocks: list[SampleBlock] = field(default_factory=list)

    def clip(self, clip: ClipInfo) -> None:
        """Keep the clip as first told."""
        self.first = clip

    def block(self, block: SampleBlock) -> None:
        """Keep a block."""
        self.blocks.append(block)

    def progress(self) -> None:
        """Nothing to keep."""


def make_job(
    *,
    fps: float | None = 1.0,
    start_s: float = 0.0,
    end_s: float | None = None,
    policy: MediaPolicy | None = None,
    side_px: int = SIDE_PX,
    audio_track: int | None = None,
) -> DecodeJob:
    """A job with the defaults of the service."""
    return DecodeJob(fps, start_s, end_s, side_px, side_px, policy or MediaPolicy(), audio_track)


def collect(blocks: list[SampleBlock], clip: ClipInfo) -> Decoded:
    """Blocks as one."""
    return Decoded(
        clip=clip,
        frames=np.concatenate([block.frames for block in blocks]),
        windows=np.concatenate([block.windows() for block in blocks]),
        sample_times_s=np.concatenate([block.sample_times_s for block in blocks]),
        timestamps_s=np.concatenate([block.timestamps_s for block in blocks]),
        indexes=np.concatenate([block.indexes for block in blocks]),
    )


def decode_here(data: bytes, job: DecodeJob, *, piece_bytes: int | None = None) -> Decoded:
    """Pre-scan and decode without a child; with `piece_bytes` the upload grows by that much when more is asked for."""
    fd = os.memfd_create("clip")
    try:
        os.write(fd, data)
        held = len(data) if piece_bytes is None else min(piece_bytes, len(data))

        def grow(num_bytes: int) -> tuple[int, bool]:
            assert piece_bytes is not None
            size = min(len(data), max(num_bytes, 1) if num_bytes < len(data) else len(data))
            size = min(len(data), -(-size // piece_bytes) * piece_bytes)
            return size, size == len(data) and num_bytes > len(data)

        source = UploadSource(fd, size_bytes=held, is_complete=piece_bytes is None, need=grow)
        scanner, tracks = scan(job, source)
        outbox = ListOutbox()
        clip = decode_clip(job, source, outbox, tracks=tracks)
        if source.is_complete:
            scanner.rest()
        return collect(outbox.blocks, clip)
    finally:
        os.close(fd)


def shown_times(data: bytes) -> NDArray[np.float64]:
    """Timestamps of all frames by FFmpeg's plain decoding, float64 (T,) seconds, rising."""
    with av.open(io.BytesIO(data)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0) if frame.pts is not None]
    return np.array(sorted(set(times)))


def expected_rows(times_s: NDArray[np.float64], instants_s: NDArray[np.float64], *, tick_s: float) -> list[int]:
    """For each instant the last frame that is not after it, half a tick of tolerance; before the first, the first."""
    rows = []
    for instant in instants_s:
        past = [row for row, time_s in enumerate(times_s) if time_s <= instant + tick_s * (0.5 + 1e-6)]
        rows.append(past[-1] if past else 0)
    return rows
