"""The device's threads, and the runner that predicts a batch on one of them.

Everything that touches the predictor runs on these threads: on a GPU one, one call at a time; on a CPU several, each
with a call of its own.
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

from service.batching.accelerators import driver_version, nvidia_devices
from service.batching.arrays import (
    Floats,
    Frames,
    SliceResult,
    assemble,
    device_lost,
    internal_error,
    pad,
    share_out,
)
from service.batching.call_costs import CallCosts
from service.batching.plan import BatchPlan
from service.batching.sample_queue import SampleSlice
from service.batching.warm_up import WarmUp
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.ports import CheckpointInfo, Predictor

logger = logging.getLogger(__name__)

# Calls that wait beside one for each thread, which may not have taken it yet: a batch, so that the device does not idle
# during a hand-over, and a call of the warm-up.
HANDOFF_SIZE = 2
# A call that takes this many times as long as its largest shape took at warm-up counts as hung. Other load on the
# machine slows a call down less than that.
HUNG_FACTOR = 20.0

_T = TypeVar("_T")
_Call: TypeAlias = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Result of a batch: logits (n, K, h, w) or an error for each slice, and the seconds on the device."""

    results: list[SliceResult]
    predict_s: float


class DeviceThreads:
    """Runs calls in order on daemon threads, so that a hanging device cannot keep the process from ending."""

    def __init__(
        self,
        *,
        clock: Clock,
        call_limit_s: Callable[[], float],
        idle_check: Callable[[], object],
        idle_s: float,
        max_threads: int = 1,
    ) -> None:
        """Create the queue; `start` starts threads.

        Args:
            clock: seconds, monotonic.
            call_limit_s: a call without progress for longer than this makes the device unhealthy until the call ends.
            idle_check: health check of the device, called on a thread after each `idle_s` seconds without work.
            idle_s: see `idle_check`.
            max_threads: most threads.
        """
        self._clock = clock
        self._call_limit_s = call_limit_s
        self._idle_check = idle_check
        self._idle_s = idle_s
        self._calls: queue.Queue[_Call | None] = queue.Queue(max_threads + HANDOFF_SIZE)
        self._busy_since_s: dict[int, float] = {}  # of the threads that run a call, by thread
        self._threads: list[threading.Thread] = []

    def start(self, *, num_threads: int = 1) -> None:
        """Start threads until there are this many."""
        while len(self._threads) < num_threads:
            self._threads.append(threading.Thread(target=self._work, name="device", daemon=True))
            self._threads[-1].start()

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Return `call(*arguments)`, computed on a device thread; its exceptions are raised here.

        Raises:
            ServiceError: `queue_full` if too many calls already wait; the segmenter never sends more.
        """
        future: Future[_T] = Future()
        try:
            self._calls.put_nowait((future, call, arguments))
        except queue.Full:
            raise ServiceError("queue_full", "The device has more work than it can take.") from None
        return await asyncio.wrap_future(future)

    def is_healthy(self) -> bool:
        """Return whether the threads are alive and no call is overdue."""
        if not all(thread.is_alive() for thread in self._threads):
            return False
        since_s = min(list(self._busy_since_s.values()), default=None)
        return since_s is None or self._clock() - since_s <= self._call_limit_s()

    def note_progress(self) -> None:
        """Restart the clock of the calling thread's call. Called by a call of several steps."""
        self._busy_since_s[threading.get_ident()] = self._clock()

    async def stop(self, *, timeout_s: float) -> bool:
        """End the threads after their calls and cancel waiting calls. Return False if one did not end in time."""
        while True:
            try:
                entry = self._calls.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[0].cancel()
        living = [thread for thread in self._threads if thread.is_alive()]
        for _ in living:
            self._calls.put_nowait(None)
        until_s = time.monotonic() + timeout_s
        for thread in living:
            await asyncio.to_thread(thread.join, max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in living)

    def _work(self) -> None:
        """Run calls until the threads are stopped. An exception goes to the caller and does not end the thread."""
        this = threading.get_ident()
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
            self._busy_since_s[this] = self._clock()
            try:
                result = call(*arguments)
            except Exception as failure:
                self._busy_since_s.pop(this)  # before the caller hears of it
                future.set_exception(failure)
            else:
                self._busy_since_s.pop(this)
                future.set_result(result)


class BatchRunner:
    """Owns the predictor. All methods except the constructor run on device threads; `run` on several at the same time.

    After a failed batch each request is run again alone, so that only the faulty one fails. A batch that does not fit
    is halved, and the size that fits is remembered. If the device died, everything fails with `backend_down`.
    """

    info: ModelInfo
    compute_type: str
    can_run_parallel: bool
    device_facts: Mapping[str, str]
    plan: BatchPlan
    _predictor: Predictor
    _warm_up: WarmUp
    _costs: CallCosts

    def __init__(
        self,
        make_predictor: Callable[[], Predictor],
        *,
        sizes: Sequence[int],
        device_timeout_s: float = 20.0,
        on_call: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the runner; `load` creates the predictor.

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
        self._planning = threading.Lock()  # over the plan and the costs that it is made of
        self.is_loaded = False
        self.is_device_healthy = True
        self.memory_bytes = 0

    def load(self) -> None:
        """Create the predictor and warm up batch shapes, so that no request pays for the first call of a shape.

        On a CPU only the smallest shape, which is enough to answer; `warm_up_further` adds the others. On a GPU the
        first call of a shape takes much longer than later ones, so all of them are warmed up here.
        """
        self._predictor = self._make_predictor()
        self.info = _model_info(self._predictor.info)
        self.compute_type = self._predictor.compute_type
        self.device_facts = {**self._predictor.device_facts, "driver": driver_version() or "none"}
        logger.info("device", extra=dict(self.device_facts))
        if self.device_facts["device"] == "cpu" and (found := nvidia_devices()):
            logger.warning("the CPU is used although NVIDIA devices are present", extra={"nvidia_devices": found})
        is_cpu = self.device_facts["device"] == "cpu"
        self._warm_up = WarmUp(
            self._predictor,
            self._sizes,
            height=self.info.input_height,
            width=self.info.input_width,
            clock=self._clock,
            is_cpu=is_cpu,
        )
        self.can_run_parallel = is_cpu
        self._warm_up.start()
        if not is_cpu:
            self._warm_up.finish()
        self._use_warm_shapes()
        self.is_loaded = True

    def warm_up_further(self) -> bool:
        """Make one more call of the warm-up. Return whether another one is left.

        Shapes are used once they are measured. If a call fails, the shapes measured before it remain in use.
        """
        if not self._warm_up.is_done:
            try:
                self._warm_up.step()
            except Exception:
                logger.exception("a larger batch shape failed and is left out")
                self._warm_up.stop()
            self._use_warm_shapes()
        return not self._warm_up.is_done

    @property
    def has_long_calls(self) -> bool:
        """Whether calls take so long that a request should not wait for those of the warm-up."""
        return self._warm_up.has_long_calls

    def _use_warm_shapes(self) -> None:
        """Plan with the shapes measured so far."""
        costs_s = self._warm_up.costs_s
        with self._planning:
            self._costs = CallCosts(costs_s)
            self.plan = BatchPlan(costs_s)
        self.memory_bytes = self._predictor.memory_bytes()
        if self._warm_up.is_done:
            seconds = {size: round(cost_s, 5) for size, cost_s in costs_s.items()}
            logger.info("warmed up", extra={"compute_type": self.compute_type, "seconds_by_batch": seconds})

    def call_limit_s(self) -> float:
        """Return the seconds after which a call of the predictor counts as hung; infinite before warm-up has ended."""
        if not self.is_loaded:
            return math.inf
        return max(self._device_timeout_s, HUNG_FACTOR * self.plan.cost_s(self.plan.max_batch))

    def check_health(self) -> bool:
        """Check the device. A device that failed once counts as dead until the process is replaced."""
        if self.is_device_healthy and self.is_loaded:
            self._on_call()
            try:
                self.is_device_healthy = self._predictor.is_healthy()
            except Exception:
                logger.exception("device health check failed")
                self.is_device_healthy = False
        return self.is_device_healthy

    def run(self, slices: Sequence[SampleSlice]) -> BatchOutcome:
        """Predict the slices whose callers still wait. Failures of model or device are results, not exceptions."""
        started_s = self._clock()
        live = [piece for piece in slices if not piece.pending.is_dropped]
        results: list[SliceResult] = []
        if live:
            try:
                results = share_out(self._predict(*assemble(live)), live)
            except Exception as failure:
                results = self._run_apart(live, failure)
        if self.is_device_healthy:
            self.memory_bytes = self._predictor.memory_bytes()
        return BatchOutcome(results, self._clock() - started_s)

    def _predict(self, frames: Frames, windows: Floats) -> Floats:
        """Return the logits (n, K, h, w) of n samples, computed in calls of warmed-up shapes."""
        parts: list[Floats] = []
        start = 0
        while start < len(frames):
            stop = min(len(frames), start + self.plan.max_batch)
            num = stop - start
            padded = pad(frames[start:stop], windows[start:stop], self.plan.shape_of(num))
            self._on_call()
            began_s = self._clock()
            try:
                logits = self._predictor.predict(*padded)
            except MemoryError:
                self._shrink(num)
                continue
            with self._planning:
                self._costs.note_call(len(padded[0]), self._clock() - began_s)
                self.plan = self._costs.updated(self.plan)
            if logits.ndim != 4 or len(logits) != len(padded[0]):
                raise RuntimeError(f"the predictor answered {logits.shape} for {len(padded[0])} samples")
            parts.append(logits[:num])
            start = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_apart(self, slices: list[SampleSlice], failure: Exception) -> list[SliceResult]:
        """Run each request of a failed batch alone, so that only the faulty one fails."""
        by_request: dict[str, list[SampleSlice]] = {}
        for piece in slices:
            by_request.setdefault(piece.pending.request_id, []).append(piece)
        logger.error(
            "batch failed",
            exc_info=failure,
            extra={"num_samples": sum(map(len, slices)), "request_ids": sorted(by_request)},
        )
        if not self.check_health():
            return [(piece, device_lost()) for piece in slices]
        if len(by_request) == 1:
            return [(piece, internal_error("The model failed on this clip")) for piece in slices]
        return [result for alone in by_request.values() for result in self.run(alone).results]

    def _shrink(self, num_samples: int) -> None:
        with self._planning:
            size = self.plan.shape_of(num_samples)
            smaller = self.plan.without(size)
            if smaller is None:
                raise RuntimeError(f"a batch of {num_samples} does not fit the device, and there is no smaller shape")
            self.plan = smaller
        self._warm_up.stop()
        logger.warning("batch does not fit the device", extra={"num_samples": size, "max_batch": smaller.max_batch})


def _model_info(info: CheckpointInfo) -> ModelInfo:
    return ModelInfo(
        variant=info.variant,
        checkpoint=info.checkpoint,
        labels=info.labels,
        world_version=info.world_version,
        input_height=info.input_height,
        input_width=info.input_width,
        offset_lag_s=info.offset_lag_s,
    )
