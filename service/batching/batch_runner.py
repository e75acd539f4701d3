"""One batch on the device, come what may: padding, too little memory, a guilty request. Runs on the device thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batching.batch_plan import BatchPlan
from service.batching.sample_queue import SampleSlice
from service.domain.chunk import WINDOW_SAMPLES
from service.domain.errors import ServiceError
from service.ports import Predictor

logger = logging.getLogger(__name__)

WARM_UP_REPEAT_S = 0.25
"""A shape that took less than this is timed once more: its first call pays for allocation and kernel choice."""

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
SliceResult = tuple[SampleSlice, Floats | ServiceError]


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch: logits (n, K, h, w) or an error for each slice, and the seconds on the device."""

    results: list[SliceResult]
    predict_s: float


class BatchRunner:
    """Owns the predictor on the device thread.

    A failed batch fails only the guilty request: the others are run again, each alone. A batch that does not fit is
    halved, and the size that fits is remembered. A device that died fails everything at once as `backend_down`.
    """

    def __init__(
        self, predictor: Predictor, *, sizes: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take over a predictor and warm up every batch shape, so that no request meets a cold one."""
        self._predictor = predictor
        self._clock = clock
        self.info = predictor.info
        self.is_device_healthy = True
        self.memory_bytes = 0
        self.plan = self._warm_up(sizes)

    def check_health(self) -> bool:
        """Ask the device; a device that was found dead stays dead until the process is replaced."""
        if self.is_device_healthy:
            try:
                self.is_device_healthy = self._predictor.is_healthy()
            except Exception:
                logger.exception("device health check failed")
                self.is_device_healthy = False
        return self.is_device_healthy

    def run(self, slices: Sequence[SampleSlice]) -> BatchOutcome:
        """Predict the slices whose callers still wait; never raises for a failure of model or device."""
        started_s = self._clock()
        live = [piece for piece in slices if not piece.pending.is_dropped]
        results = self._run_together(live) if live else []
        self.memory_bytes = self._predictor.memory_bytes()
        return BatchOutcome(results, self._clock() - started_s)

    def _run_together(self, slices: list[SampleSlice]) -> list[SliceResult]:
        try:
            logits = self._predict(*assemble(slices))
        except Exception as failure:
            return self._run_apart(slices, failure)
        results: list[SliceResult] = []
        start = 0
        for piece in slices:
            rows = logits[start : start + len(piece)]
            start += len(piece)
            results.append((piece, rows if np.isfinite(rows).all() else _internal("The model gave no finite answer")))
        return results

    def _run_apart(self, slices: list[SampleSlice], failure: Exception) -> list[SliceResult]:
        """After a failed batch: each request alone, so that only the guilty one fails."""
        by_request: dict[str, list[SampleSlice]] = {}
        for piece in slices:
            by_request.setdefault(piece.pending.request_id, []).append(piece)
        logger.error(
            "batch failed",
            exc_info=failure,
            extra={"num_samples": sum(map(len, slices)), "request_ids": sorted(by_request)},
        )
        if not self.check_health():
            error = ServiceError("backend_down", "The compute device stopped answering; the service is restarting it.")
            return [(piece, error) for piece in slices]
        if len(by_request) == 1:
            return [(piece, _internal("The model failed on this clip")) for piece in slices]
        return [result for pieces in by_request.values() for result in self._run_together(pieces)]

    def _predict(self, frames: Frames, windows: Floats) -> Floats:
        """Logits (n, K, h, w) of n samples, in calls of shapes that fit."""
        parts: list[Floats] = []
        start = 0
        while start < len(frames):
            stop = min(len(frames), start + self.plan.max_batch)
            try:
                parts.append(self._call(frames[start:stop], windows[start:stop]))
            except MemoryError:
                self._shrink(stop - start)
            else:
                start = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _shrink(self, num_samples: int) -> None:
        size = self.plan.shape_of(num_samples)
        smaller = self.plan.without(size)
        if smaller is None:
            raise RuntimeError(f"a batch of {num_samples} does not fit the device, and there is no smaller shape")
        self.plan = smaller
        logger.warning("batch does not fit the device", extra={"num_samples": size, "max_batch": smaller.max_batch})

    def _call(self, frames: Frames, windows: Floats) -> Floats:
        """One device call at a warmed-up shape; padding is cut off again."""
        num = len(frames)
        missing = self.plan.shape_of(num) - num
        if missing:
            frames = np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)])
            windows = np.concatenate([windows, np.zeros((missing, WINDOW_SAMPLES), np.float32)])
        logits = self._predictor.predict(frames, windows)
        if logits.ndim != 4 or len(logits) != len(frames):
            raise RuntimeError(f"the predictor answered {logits.shape} for {len(frames)} samples")
        return logits[:num]

    def _warm_up(self, sizes: Sequence[int]) -> BatchPlan:
        costs_s: dict[int, float] = {}
        for size in sorted(sizes):
            frames = np.zeros((size, self.info.input_height, self.info.input_width, 3), np.uint8)
            windows = np.zeros((size, WINDOW_SAMPLES), np.float32)
            try:
                cost_s = self._time_call(frames, windows)
                if cost_s < WARM_UP_REPEAT_S:
                    cost_s = min(self._time_call(frames, windows), self._time_call(frames, windows))
            except MemoryError:
                logger.warning("batch shape does not fit the device", extra={"num_samples": size})
                break
            costs_s[size] = cost_s
        plan = BatchPlan(costs_s)
        self.memory_bytes = self._predictor.memory_bytes()
        logger.info(
            "warmed up", extra={"seconds_by_batch": {size: round(cost_s, 5) for size, cost_s in costs_s.items()}}
        )
        return plan

    def _time_call(self, frames: Frames, windows: Floats) -> float:
        started_s = self._clock()
        self._predictor.predict(frames, windows)
        return self._clock() - started_s


def assemble(slices: Sequence[SampleSlice]) -> tuple[Frames, Floats]:
    """Frames uint8 (n, h, w, 3) and audio windows float32 (n, 15600) of the slices, in order."""
    num = sum(map(len, slices))
    shape = slices[0].pending.chunk.samples.frames.shape[1:]
    frames = np.empty((num, *shape), np.uint8)
    windows = np.empty((num, WINDOW_SAMPLES), np.float32)
    at = 0
    for piece in slices:
        samples = piece.pending.chunk.samples
        frames[at : at + len(piece)] = samples.frames[piece.start : piece.stop]
        for offset in samples.offsets[piece.start : piece.stop]:
            windows[at] = samples.audio[offset : offset + WINDOW_SAMPLES]
            at += 1
    windows /= np.float32(32768.0)  # int16 full scale, as SampleBlock.windows
    return frames, windows


def _internal(text: str) -> ServiceError:
    return ServiceError("internal", f"{text}; the failure was logged under the request's id.")
