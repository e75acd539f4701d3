"""The real predictor: the only importer of model/, and only when a predictor is asked for."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.domain.result import ModelInfo

if TYPE_CHECKING:
    from model.inference import Predictor as ModelPredictor

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
"""How PyTorch's CPU allocator says it, in a plain RuntimeError (c10/core/impl/alloc_cpu.cpp)."""


class TorchPredictor:
    """A checkpoint on one device, as `ports.Predictor`. Belongs to one thread."""

    def __init__(self, predictor: ModelPredictor) -> None:
        """Wrap a loaded model."""
        self._predictor = predictor
        known = predictor.info
        self._info = ModelInfo(
            variant=known.variant,
            checkpoint=known.checkpoint,
            labels=known.labels,
            world_version=known.world_version,
            input_height=known.input_height,
            input_width=known.input_width,
        )

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is and takes."""
        return self._info

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 (B, K, h, w) for frames uint8 (B, H, W, 3) and windows float32 (B, 15600).

        Raises:
            MemoryError: the batch does not fit the device.
            RuntimeError: the device failed.
        """
        try:
            return self._predictor.predict(frames, windows)
        except RuntimeError as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise MemoryError(str(error)) from error
            raise

    def is_healthy(self) -> bool:
        """Whether the device still computes."""
        return self._predictor.is_healthy()

    def memory_bytes(self) -> int:
        """Device memory held by PyTorch; 0 on the CPU."""
        return self._predictor.memory_bytes()


def load_predictor(
    checkpoint: Path | None, *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> TorchPredictor:
    """Load a checkpoint on the calling thread, which then owns it.

    Args:
        checkpoint: the file; None is the shipped one.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32, bfloat16 or float16.
        threads: of torch on the CPU; None takes `default_threads`.

    Raises:
        ValueError: the checkpoint, device or dtype cannot be used; the message says why.
    """
    from model.inference import Predictor as LoadedPredictor

    chosen = default_threads() if threads is None else threads
    return TorchPredictor(LoadedPredictor.load(checkpoint, device=device, dtype=dtype, threads=chosen))


def default_threads() -> int:
    """Half of this process's cores: decoders, encoders and the event loop need the others.

    OpenMP's workers spin while they wait for each other, so a thread too many costs both sides: on two busy cores two
    threads took five times as long as one. A container's CPU quota counts as its cores.
    """
    return max(1, min(len(os.sched_getaffinity(0)), _quota_cores(_CPU_QUOTA)) // 2)


def _quota_cores(path: Path) -> int:
    """Whole cores of a cgroup v2 CPU quota (`quota period`, or `max period` for none); many where there is none."""
    try:
        quota, period = path.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return sys.maxsize
