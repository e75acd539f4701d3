"""Warm-up of a predictor: batch shapes are run once, and their costs measured, as long as larger ones are worth it."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.startup_memory import release_freed_memory, unmap_code
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
# A model whose smallest shape takes that long on a CPU is not compiled: Python has too small a share of its time.
LONG_CALL_S = 0.1
LEAST_SAVING = 0.05

_END = object()


class WarmUp:
    """Measures the cost of rising batch shapes, one call of the predictor at a time.

    The first shape that does not fit the device, or on a CPU takes `LONG_CALL_S` without saving time, is left out, and
    so are all larger ones, which are not run. At the end, memory that the calls have freed goes back to the system,
    and so does that of code which only the start ran.

    Attributes:
        costs_s: seconds of one call by batch shape, of the shapes measured so far. The smallest shape is there after
            its first call, which takes longer than later ones.
        is_done: whether no call is left.
        has_long_calls: whether the smallest shape takes `LONG_CALL_S` or longer on a CPU.
    """

    def __init__(
        self,
        predictor: Predictor,
        sizes: Sequence[int],
        *,
        height: int,
        width: int,
        clock: Clock,
        is_cpu: bool = False,
    ) -> None:
        """Prepare the warm-up; nothing is run yet.

        Args:
            predictor: what to run.
            sizes: batch shapes, rising.
            height: frame height in pixels.
            width: frame width in pixels.
            clock: seconds, monotonic.
            is_cpu: whether the predictor runs on a CPU.
        """
        self.costs_s: dict[int, float] = {}
        self.is_done = False
        self.has_long_calls = False
        self._predictor = predictor
        self._sizes = sizes
        self._frame_shape = (height, width, 3)
        self._clock = clock
        self._is_cpu = is_cpu
        self._calls = self._measure_all()

    def step(self) -> None:
        """Make the next call of the predictor, if one is left. Raises any error of the predictor but MemoryError."""
        self.is_done = next(self._calls, _END) is _END

    def start(self) -> None:
        """Make the first call of the smallest shape."""
        while not self.costs_s and not self.is_done:
            self.step()

    def finish(self) -> None:
        """Make all calls that are left."""
        while not self.is_done:
            self.step()

    def stop(self) -> None:
        """Leave out the shapes that are not measured yet."""
        self._calls.close()
        self.is_done = True

    def _measure_all(self) -> Generator[None, None, None]:
        """Measure the shapes and pause between two calls."""
        measured_s: dict[int, float] = {}
        for size in self._sizes:
            if measured_s:
                yield
            try:
                cost_s = yield from self._measure(size, measured_s)
            except MemoryError:
                logger.warning("batch shape does not fit the device", extra={"num_samples": size})
                break
            if self._is_cpu and is_useless(size, cost_s, measured_s):
                break
            self.costs_s[size] = measured_s[size] = cost_s
            if len(measured_s) == 1 and self._is_cpu:
                self.has_long_calls = cost_s >= LONG_CALL_S
                if not self.has_long_calls:
                    self.costs_s[size] = measured_s[size] = yield from self._compile(size, cost_s)
        release_freed_memory()
        unmap_code()

    def _measure(self, size: int, smaller_s: Mapping[int, float]) -> Generator[None, None, float]:
        """Measure one shape and pause between two calls."""
        frames = np.zeros((size, *self._frame_shape), np.uint8)
        windows = np.zeros((size, WINDOW_SAMPLES), np.float32)
        cost_s = self._call_s(frames, windows)
        if not smaller_s:
            self.costs_s[size] = cost_s
        if cost_s < WARM_UP_REPEAT_S:
            yield
            cost_s = self._call_s(frames, windows)
            yield
            cost_s = min(cost_s, self._call_s(frames, windows))
        repeats = 2 if self._is_cpu else 0
        while repeats and is_useless(size, cost_s, smaller_s):
            yield
            cost_s = min(cost_s, self._call_s(frames, windows))
            repeats -= 1
        return cost_s

    def _compile(self, size: int, cost_s: float) -> Generator[None, None, float]:
        """Compile the predictor and pause before and after it. Return the cost of a shape that took `cost_s` before."""
        yield
        try:
            is_compiled = self._predictor.compile()
            logger.info("compiled" if is_compiled else "not compiled")
        except Exception:
            logger.exception("compilation failed; the model runs as before")
        yield
        frames = np.zeros((size, *self._frame_shape), np.uint8)
        return min(cost_s, self._call_s(frames, np.zeros((size, WINDOW_SAMPLES), np.float32)))

    def _call_s(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> float:
        started_s = self._clock()
        self._predictor.predict(frames, windows)
        return self._clock() - started_s


def is_useless(size: int, cost_s: float, smaller_s: Mapping[int, float]) -> bool:
    """Return whether a shape takes `LONG_CALL_S` or longer and saves no time over smaller ones.

    Args:
        size: samples of the shape.
        cost_s: seconds of one call.
        smaller_s: seconds of one call by smaller shapes.
    """
    best_s = min((seconds / num for num, seconds in smaller_s.items()), default=math.inf)
    return cost_s >= LONG_CALL_S and cost_s / size > (1 - LEAST_SAVING) * best_s
