"""Chunks and blocks of samples for tests, and a clock that moves only when told."""

from __future__ import annotations

import zlib

import numpy as np

from service.domain.chunk import WINDOW_SAMPLES, Chunk, MaskPolicy, SampleBlock
from service.domain.deadline import Deadline

# Samples of sound between two frames in these makers: 10 frames per second at 16 kHz.
HOP_SAMPLES = 1600
_BLOB_PX = 16
NO_DEADLINE = Deadline()


class FakeClock:
    """A monotonic clock in the hands of the test."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def make_block(
    num_samples: int,
    *,
    seed: int = 0,
    size_px: int | tuple[int, int] = 64,
    is_loud: bool = True,
    first_index: int = 0,
) -> SampleBlock:
    """A block of square blobs of 16 pixels with noise as sound; every sample differs from every other.

    Args:
        num_samples: frames in the block.
        seed: the content follows from it.
        size_px: height and width of the frames; one number makes them square.
        is_loud: whether there is sound, without which the fake predictor marks nothing.
        first_index: place of the first frame in its clip.
    """
    rng = np.random.default_rng(seed)
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    coarse = rng.integers(0, 256, (num_samples, -(-height // _BLOB_PX), -(-width // _BLOB_PX), 3)).astype(np.uint8)
    frames = coarse.repeat(_BLOB_PX, axis=1).repeat(_BLOB_PX, axis=2)[:, :height, :width]
    level = 6000 if is_loud else 0
    audio = rng.integers(-level, level + 1, WINDOW_SAMPLES + num_samples * HOP_SAMPLES).astype(np.int16)
    at = np.arange(num_samples, dtype=np.int64)
    return SampleBlock(
        frames=np.ascontiguousarray(frames),
        audio=audio,
        offsets=at * HOP_SAMPLES,
        sample_times_s=at / 10.0,
        timestamps_s=at / 10.0 - 0.01,
        indexes=first_index + at,
    )


def make_chunk(
    request_id: str = "request",
    num_samples: int = 4,
    *,
    seed: int | None = None,
    chunk_no: int = 0,
    size_px: int | tuple[int, int] = 64,
    output_size: tuple[int, int] = (96, 128),
    deadline: Deadline = NO_DEADLINE,
    is_interactive: bool = True,
    is_loud: bool = True,
    labels: tuple[str, ...] = ("sounding",),
    checkpoint: str = "",
    is_live: bool = False,
) -> Chunk:
    """A chunk whose content depends on its seed alone, by default one made of its request and number."""
    if seed is None:
        seed = zlib.crc32(f"{request_id}/{chunk_no}".encode())
    return Chunk(
        request_id=request_id,
        chunk_no=chunk_no,
        samples=make_block(num_samples, seed=seed, size_px=size_px, is_loud=is_loud, first_index=25),
        masks=MaskPolicy(output_size=output_size, threshold=0.5, labels=labels, min_area=0),
        deadline=deadline,
        is_interactive=is_interactive,
        checkpoint=checkpoint,
        is_live=is_live,
    )
