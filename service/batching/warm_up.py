"""Warm-up of a predictor: batch shapes are run once, and their costs measured, as long as larger ones are worth it."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import WINDOW_SAMPLES
from service.domain.deadline import Clock
from service.ports import Predictor

logger = logging.getLogger(__name__)

# A batch shape that took less than this many seconds is timed again, because its first call includes allocation and
# the choice of kernels.
WARM_UP_REPEAT_S = 0.25
# A call of this many seconds delays what arrives meanwhile, and its arrays stay in memory. On a CPU such a shape is
# used only if it saves this share of the time per sample of the best smaller one. It is timed three times before it is
# left out. A GPU is faster with larger batches, and a disturbed measurement there would cost more than it could save.
LONG_CALL_S = 0.1
LEAST_SAVING = 0.05


def warm_up(
    predictor: Predictor, sizes: Sequence[int], *, height: int, width: int, clock: Clock, is_cpu: bool = False
) -> dict[int, float]:
    """Return the seconds of one call by batch shape.

    The first shape that does not fit the device, or on a CPU takes `LONG_CALL_S` without saving time, is left out, and
    so are all larger ones, which are not run. Memory that the calls have freed goes back to the system.

    Args:
        predictor: what to run.
        sizes: batch shapes, rising.
        height: frame height in pixels.
        width: frame width in pixels.
        clock: seconds, monotonic.
        is_cpu: whether the predictor runs on a CPU.
    """
    costs_s: dict[int, float] = {}
    for size in sizes:
        frames = np.zeros((size, height, width, 3), np.uint8)
        windows = np.zeros((size, WINDOW_SAMPLES), np.float32)
        try:
            cost_s = _call_s(predictor, frames, windows, clock=clock)
            if cost_s < WARM_UP_REPEAT_S:
                cost_s = min(_call_s(predictor, frames, windows, clock=clock) for _ in range(2))
            repeats = 2 if is_cpu else 0
            while repeats and is_useless(size, cost_s, costs_s):
                cost_s = min(cost_s, _call_s(predictor, frames, windows, clock=clock))
                repeats -= 1
        except MemoryError:
            logger.warning("batch shape does not fit the device", extra={"num_samples": size})
            break
        if is_cpu and is_useless(size, cost_s, costs_s):
            break
        costs_s[size] = cost_s
    _release_freed_memory()
    return costs_s


def is_useless(size: int, cost_s: float, smaller_s: Mapping[int, float]) -> bool:
    """Return whether a shape takes `LONG_CALL_S` or longer and saves no time over smaller ones.

    Args:
        size: samples of the shape.
        cost_s: seconds of one call.
        smaller_s: seconds of one call by smaller shapes.
    """
    best_s = min((seconds / num for num, seconds in smaller_s.items()), default=math.inf)
    return cost_s >= LONG_CALL_S and cost_s / size > (1 - LEAST_SAVING) * best_s


def _release_freed_memory() -> None:
    """Let the C library return freed memory to the system; do nothing where it is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _call_s(predictor: Predictor, frames: NDArray[np.uint8], windows: NDArray[np.float32], *, clock: Clock) -> float:
    started_s = clock()
    predictor.predict(frames, windows)
    return clock() - started_s
