"""Makers of chunks for tests, and a clock that moves only when told."""

from __future__ import annotations

import zlib

import numpy as np

from service.domain.chunk import WINDOW_SAMPLES, Chunk, MaskPolicy, SampleBlock
from service.domain.deadline import Deadline

HOP_SAMPLES = 1600
"""Samples of sound between two frames in these makers: 10 frames per second at 16 kHz."""


class FakeClock:
    """A monotonic clock in the hands of the test."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def make_block(num_samples: int, *, seed: int = 0, size_px: int = 64, is_loud: bool = True) -> SampleBlock:
    """A block of smooth random blobs with noise as sound; every sample differs from every other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_samples, size_px // 16, size_px // 16, 3)).astype(np.uint8)
    frames = coarse.repeat(16, axis=1).repeat(16, axis=2)
    level = 6000 if is_loud else 0
    audio = rng.integers(-level, level + 1, WINDOW_SAMPLES + num_samples * HOP_SAMPLES).astype(np.int16)
    at = np.arange(num_samples, dtype=np.int64)
    return SampleBlock(frames, audio, at * HOP_SAMPLES, at / 10.0, at / 10.0, at)


def make_chunk(
    request_id: str,
    num_samples: int = 4,
    *,
    chunk_no: int = 0,
    size_px: int = 64,
    deadline: Deadline | None = None,
    is_interactive: bool = True,
    is_loud: bool = True,
    labels: tuple[str, ...] = ("sounding",),
) -> Chunk:
    """A chunk whose content depends on its request and number alone."""
    seed = zlib.crc32(f"{request_id}/{chunk_no}".encode())
    return Chunk(
        request_id=request_id,
        chunk_no=chunk_no,
        samples=make_block(num_samples, seed=seed, size_px=size_px, is_loud=is_loud),
        masks=MaskPolicy((96, 128), 0.5, labels, 0),
        deadline=deadline or Deadline(),
        is_interactive=is_interactive,
    )
