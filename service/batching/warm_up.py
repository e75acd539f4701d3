"""Warm-up of a predictor: every batch shape is run once, and its cost is measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import WINDOW_SAMPLES
from service.domain.deadline import Clock
from service.ports import Predictor

logger = logging.getLogger(__name__)

# A batch shape that took less than this many seconds is timed again, because its first call includes allocation and
# the choice of kernels.
WARM_UP_REPEAT_S = 0.25


def warm_up(predictor: Predictor, sizes: Sequence[int], *, height: int, width: int, clock: Clock) -> dict[int, float]:
    """Return the seconds of one call by batch shape. Shapes that do not fit the device are left out.

    Args:
        predictor: what to run.
        sizes: batch shapes, rising.
        height: frame height in pixels.
        width: frame width in pixels.
        clock: seconds, monotonic.
    """
    costs_s: dict[int, float] = {}
    for size in sizes:
        frames = np.zeros((size, height, width, 3), np.uint8)
        windows = np.zeros((size, WINDOW_SAMPLES), np.float32)
        try:
            cost_s = _call_s(predictor, frames, windows, clock=clock)
            if cost_s < WARM_UP_REPEAT_S:
                cost_s = min(_call_s(predictor, frames, windows, clock=clock) for _ in range(2))
        except MemoryError:
            logger.warning("batch shape does not fit the device", extra={"num_samples": size})
            break
        costs_s[size] = cost_s
    return costs_s


def _call_s(predictor: Predictor, frames: NDArray[np.uint8], windows: NDArray[np.float32], *, clock: Clock) -> float:
    started_s = clock()
    predictor.predict(frames, windows)
    return clock() - started_s
