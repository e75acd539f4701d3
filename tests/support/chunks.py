"""Small real chunks for the FakePredictor: bright squares that sound or do not."""

from __future__ import annotations

import numpy as np

from service.domain.chunk import WINDOW_SAMPLES, Chunk, MaskPolicy, SampleBlock
from service.domain.deadline import Deadline

HOP_SAMPLES = 1600
NO_DEADLINE = Deadline()


def make_chunk(
    seed: int = 0,
    *,
    num_samples: int = 3,
    size: tuple[int, int] = (64, 64),
    output_size: tuple[int, int] = (48, 80),
    request_id: str = "request",
    chunk_no: int = 0,
    deadline: Deadline = NO_DEADLINE,
    is_interactive: bool = True,
    checkpoint: str = "",
) -> Chunk:
    """A chunk whose frames and sound follow from the seed alone."""
    rng = np.random.default_rng(seed)
    height, width = size
    frames = rng.integers(0, 90, (num_samples, height, width, 3), dtype=np.uint8)
    for frame in frames:
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        frame[top : top + height // 3, left : left + width // 3] = rng.integers(200, 256)
    times_s = 0.9375 + np.arange(num_samples, dtype=np.float64)
    return Chunk(
        request_id=request_id,
        chunk_no=chunk_no,
        samples=SampleBlock(
            frames=frames,
            audio=rng.integers(-9000, 9000, WINDOW_SAMPLES + HOP_SAMPLES * num_samples).astype(np.int16),
            offsets=np.arange(num_samples, dtype=np.int64) * HOP_SAMPLES,
            sample_times_s=times_s,
            timestamps_s=times_s - 0.01,
            indexes=np.arange(num_samples, dtype=np.int64) * 25,
        ),
        masks=MaskPolicy(output_size=output_size, threshold=0.5, labels=("sounding",), min_area=0),
        deadline=deadline,
        is_interactive=is_interactive,
        checkpoint=checkpoint,
    )
