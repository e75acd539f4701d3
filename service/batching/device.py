"""The device: the one OS thread that owns it, and what a batch is there (padding, too little memory, guilty requests).

Everything that touches the predictor runs on the thread, one call at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.batching.accelerators import driver_version, nvidia_devices
from service.batching.batch_plan import BatchPlan
from service.batching.sample_queue import SampleSlice
from service.domain.chunk import WINDOW_SAMPLES
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.ports import CheckpointInfo, Predictor

logger = logging.getLogger(__name__)

# Calls handed to the thread: one in progress and one waiting, so that the device does not idle during a hand-over.
HANDOFF_SIZE = 2
# A call that takes this many times what its largest shape took at warm-up counts as hung: more than other load costs.
HUNG_FACTOR = 20.0
# A batch shape that took less than this (seconds) is timed again: its first call pays for allocation and kernel choice.
WARM_UP_REPEAT_S = 0.25

_T = TypeVar("_T")
_Call: TypeAlias = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
SliceResult = tuple[SampleSlice, Floats | ServiceError]


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch: logits (n, K, h, w) or an error for each slice, and the seconds on the device."""

    results: list[SliceResult]
    predict_s: float


class DeviceThread:
    """Runs calls in order on a daemon thread, so that a wedged device cannot keep the process from ending."""

    def __init__(
        self, *, clock: Clock, call_limit_s: Callable[[], float], idle_check: Callable[[], object], idle_s: float
    ) -> None:
        """Make the thread; `start` starts it.

        Args:
            clock: seconds, monotonic.
            call_limit_s: a call that is longer than this without progress makes the thread unhealthy until it is over.
            idle_check: called on the thread after each `idle_s` seconds without work (asks the device's health).
            idle_s: see `idle_check`.
        """
        self._clock = clock
        self._call_limit_s = call_limit_s
        self._idle_check = idle_check
        self._idle_s = idle_s
        self._calls: queue.Queue[_Call | None] = queue.Queue(HANDOFF_SIZE)
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Return `call(*arguments)`, computed on the device thread; its exceptions are raised here.

        Raises:
            ServiceError: `queue_full` when two calls wait already; the batcher never sends so many.
        """
        future: Future[_T] = Future()
        try:
            self._calls.put_nowait((future, call, arguments))
        except queue.Full:
            raise ServiceError("queue_full", "The device has more work than it can take.") from None
        return await asyncio.wrap_future(future)

    def is_healthy(self) -> bool:
        """Whether the thread lives and its present call is not overdue."""
        busy_since_s = self._busy_since_s
        is_stuck = busy_since_s is not None and self._clock() - busy_since_s > self._call_limit_s()
        return self._thread.is_alive() and not is_stuck

    def note_progress(self) -> None:
        """Start the time of the present call anew; called on the thread, by a call of several steps."""
        self._busy_since_s = self._clock()

    async def stop(self, *, timeout_s: float) -> bool:
        """End the thread after its present call, cancel what waits. False if it did not end in time."""
        while True:
            try:
                entry = self._calls.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[0].cancel()
        if not self._thread.is_alive():
            return True
        self._calls.put_nowait(None)
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        """Run calls until the thread is stopped. Whatever a call raises goes to its caller, and the thread lives on."""
        while True:
            try:
                entry = self._calls.get(timeout=self._idle_s)
            except queue.Empty:
                entry = (Future(), self._idle_check, ())
            if entry is None:
                return
            future, call, arguments = entry
            if not future.set_running_or_notify_cancel():
                continue
            self._busy_since_s = self._clock()
            try:
                result = call(*arguments)
            except Exception as failure:
                future.set_exception(failure)
            else:
                future.set_result(result)
            self._busy_since_s = None


class BatchRunner:
    """Owns the predictor. All methods but the constructor run on the device thread.

    A failed batch fails only the guilty request: the others are run again, each alone. A batch that does not fit is
    halved, and the size that fits is remembered. A device that died fails everything at once as `backend_down`.
    """

    info: ModelInfo
    compute_type: str
    device_facts: Mapping[str, str]
    plan: BatchPlan
    _predictor: Predictor

    def __init__(
        self,
        make_predictor: Callable[[], Predictor],
        *,
        sizes: Sequence[int],
        device_timeout_s: float = 20.0,
        on_call: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire the runner; `load` makes the predictor.

        Args:
            make_predictor: loads the model.
            sizes: batch shapes.
            device_timeout_s: least `call_limit_s`.
            on_call: called before each call of the predictor.
            clock: seconds, monotonic.
        """
        self._make_predictor = make_predictor
        self._device_timeout_s = device_timeout_s
        self._on_call = on_call
        self._sizes = tuple(sorted(sizes))
        self._clock = clock
        self.is_loaded = False
        self.is_device_healthy = True
        self.memory_bytes = 0

    def load(self) -> None:
        """Make the predictor and warm up every batch shape, so that no request meets a cold one."""
        self._predictor = self._make_predictor()
        self.info = _model_info(self._predictor.info)
        self.compute_type = self._predictor.compute_type
        self.device_facts = {**self._predictor.device_facts, "driver": driver_version() or "none"}
        logger.info("device", extra=dict(self.device_facts))
        if self.device_facts["device"] == "cpu" and (found := nvidia_devices()):
            logger.warning("the CPU is used although NVIDIA devices are here", extra={"nvidia_devices": found})
        self.plan = self._warm_up()
        self.is_loaded = True

    def call_limit_s(self) -> float:
        """Return the seconds after which a call of the predictor counts as hung; infinite before warm-up has ended."""
        if not self.is_loaded:
            return math.inf
        return max(self._device_timeout_s, HUNG_FACTOR * self.plan.cost_s(self.plan.max_batch))

    def check_health(self) -> bool:
        """Ask the device; a device that was found dead stays dead until the process is replaced."""
        if self.is_device_healthy and self.is_loaded:
            self._on_call()
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
        results: list[SliceResult] = []
        if live:
            try:
                results = _share_out(self._predict(*assemble(live)), live)
            except Exception as failure:
                results = self._run_apart(live, failure)
        if self.is_device_healthy:
            self.memory_bytes = self._predictor.memory_bytes()
        return BatchOutcome(results, self._clock() - started_s)

    def _predict(self, frames: Frames, windows: Floats) -> Floats:
        """Return the logits (n, K, h, w) of n samples, computed in calls of warmed-up shapes that fit."""
        parts: list[Floats] = []
        start = 0
        while start < len(frames):
            stop = min(len(frames), start + self.plan.max_batch)
            num = stop - start
            padded = _pad(frames[start:stop], windows[start:stop], self.plan.shape_of(num))
            self._on_call()
            try:
                logits = self._predictor.predict(*padded)
            except MemoryError:
                self._shrink(num)
                continue
            if logits.ndim != 4 or len(logits) != len(padded[0]):
                raise RuntimeError(f"the predictor answered {logits.shape} for {len(padded[0])} samples")
            parts.append(logits[:num])
            start = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_apart(self, slices: list[SampleSlice], failure: Exception) -> list[SliceResult]:
        """After a failed batch: run each request alone, so that only the guilty one fails."""
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
        return [result for alone in by_request.values() for result in self.run(alone).results]

    def _shrink(self, num_samples: int) -> None:
        size = self.plan.shape_of(num_samples)
        smaller = self.plan.without(size)
        if smaller is None:
            raise RuntimeError(f"a batch of {num_samples} does not fit the device, and there is no smaller shape")
        self.plan = smaller
        logger.warning("batch does not fit the device", extra={"num_samples": size, "max_batch": smaller.max_batch})

    def _warm_up(self) -> BatchPlan:
        costs_s: dict[int, float] = {}
        for size in self._sizes:
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
            "warmed up",
            extra={
                "compute_type": self.compute_type,
                "seconds_by_batch": {size: round(cost_s, 5) for size, cost_s in costs_s.items()},
            },
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


def _pad(frames: Frames, windows: Floats, size: int) -> tuple[Frames, Floats]:
    """Return n samples padded to `size` with zeros."""
    missing = size - len(frames)
    if not missing:
        return frames, windows
    return (
        np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)]),
        np.concatenate([windows, np.zeros((missing, WINDOW_SAMPLES), np.float32)]),
    )


def _share_out(logits: Floats, slices: Sequence[SampleSlice]) -> list[SliceResult]:
    """Return each slice with its rows of the logits; rows that are not finite are an error."""
    results: list[SliceResult] = []
    start = 0
    for piece in slices:
        rows = logits[start : start + len(piece)]
        start += len(piece)
        results.append((piece, rows if np.isfinite(rows).all() else _internal("The model gave no finite answer")))
    return results


def _model_info(info: CheckpointInfo) -> ModelInfo:
    return ModelInfo(
        variant=info.variant,
        checkpoint=info.checkpoint,
        labels=info.labels,
        world_version=info.world_version,
        input_height=info.input_height,
        input_width=info.input_width,
    )


def _internal(text: str) -> ServiceError:
    return ServiceError("internal", f"{text}; the failure was logged under the request's id.")
