"""The local Segmenter: micro-batcher, device threads, encoder threads and a predictor in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2

from service.aio.tasks import end_tasks
from service.batching.arrays import device_lost
from service.batching.device import BatchRunner, DeviceThreads
from service.batching.encode_groups import EncodeInput
from service.batching.micro_batcher import EncodeOutput, MicroBatcher
from service.batching.policy import BatchPolicy
from service.batching.sample_queue import SampleSlice
from service.domain.chunk import MappedMasks, MaskPolicy
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, ModelInfo
from service.media.core_use import CoreUse
from service.media.masks import Logits, encode_masks, probability_maps
from service.ports import Predictor
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, Traces

logger = logging.getLogger(__name__)

# Seconds between health checks of an idle device. The health of a busy one shows in its calls.
IDLE_CHECK_S = 5.0
# Seconds between looks at a device call that may hang.
WATCH_S = 0.25
# The next call of a warm-up whose calls are long waits for rest, as long at most as this many of its largest calls: so
# the warm-up takes a tenth of one core at most from requests, and comes to its end under a steady load, too.
WARM_UP_PAUSE_CALLS = 10
# Seconds that the current device call may take to end at shutdown. The thread is a daemon, so the process ends anyway.
STOP_TIMEOUT_S = 10.0


class LocalSegmenter(MicroBatcher):
    """The micro-batcher over this machine's device. Implements `ports.Segmenter`."""

    def __init__(
        self,
        make_predictor: Callable[[], Predictor],
        policy: BatchPolicy,
        *,
        metrics: Metrics,
        clock: Clock,
        traces: Traces = NO_TRACES,
        cores: CoreUse | None = None,
    ) -> None:
        """Create the parts; nothing is loaded before `start`.

        Args:
            make_predictor: loads the model; called once on a device thread.
            policy: batching policy.
            metrics: batch and stage metrics, `worker_up`.
            clock: seconds, monotonic.
            traces: spans of batches and of the stages of chunks.
            cores: whether decoders keep the cores busy that a model on the CPU computes on, too.
        """
        cores = cores or CoreUse()
        self._metrics = metrics
        self._runner = BatchRunner(
            make_predictor,
            sizes=policy.sizes,
            device_timeout_s=policy.device_timeout_s,
            on_call=lambda: self._device.note_progress(),
            clock=clock,
        )
        self._device = DeviceThreads(
            clock=clock,
            call_limit_s=self._runner.call_limit_s,
            idle_check=self._runner.check_health,
            idle_s=IDLE_CHECK_S,
            max_threads=policy.parallel_calls,
        )
        self._encoders = ThreadPoolExecutor(
            policy.encode_threads, thread_name_prefix="encode", initializer=_prepare_encoder
        )
        self._tasks: list[asyncio.Task[None]] = []
        super().__init__(
            policy,
            run_batch=partial(self._device.run, self._runner.run),
            encode=self._encode_group,
            plan=lambda: self._runner.plan,
            metrics=metrics,
            clock=clock,
            traces=traces,
            are_cores_busy=lambda: self._runner.can_run_parallel and cores.is_full,
        )
        cores.on_room(self.look_again)

    async def start(self) -> None:
        """Load the predictor and warm up its first batch shapes on a device thread; ready when it returns.

        On a CPU the larger shapes are warmed up afterwards, between batches (`BatchRunner.load`), and then other
        threads call the predictor at the same time.

        Raises:
            Exception: any error of loading the model. After that the segmenter can only be closed.
        """
        self._device.start()
        await self._device.run(self._runner.load)
        self.start_batching()
        self._tasks = [
            asyncio.create_task(self._watch_device(), name="device watch"),
            asyncio.create_task(self._warm_up_further(), name="warm-up"),
        ]
        self._metrics.worker_up.set_function(lambda: int(self.is_healthy()))
        facts = self._runner.device_facts
        labels = {name: facts.get(name, "none") for name in ("device", "dtype", "cuda", "driver")}
        self._metrics.device_info.labels(**labels).set(1)
        self._metrics.device_memory_bytes.set_function(lambda: self._runner.memory_bytes)

    async def aclose(self) -> None:
        """Stop at once. Chunks that still wait or run end with `draining`; to drain, stop admitting and wait first."""
        if self._runner.is_loaded:
            self._metrics.worker_up.set_function(lambda: 0)
        await end_tasks(self._tasks)
        await super().aclose()
        timeout_s = STOP_TIMEOUT_S if self._device.is_healthy() else 0.0  # a call that hangs has had its time
        if not await self._device.stop(timeout_s=timeout_s):
            logger.error("device threads did not end in time")
        await asyncio.to_thread(self._encoders.shutdown, cancel_futures=True)

    async def describe(self) -> ModelInfo:
        """Return the loaded model; raises `warming_up` before `start` has ended."""
        if not self._runner.is_loaded:
            raise _warming_up()
        return self._runner.info

    @property
    def compute_type(self) -> str | None:
        """Number format that the model computes in, such as `bfloat16`; None before `start` has ended."""
        return self._runner.compute_type if self._runner.is_loaded else None

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Facts of the device and its driver; empty before `start` has ended."""
        return self._runner.device_facts if self._runner.is_loaded else {}

    def is_idle(self) -> bool:
        """Return whether a chunk sent now would start at once."""
        return self._runner.is_loaded and super().is_idle()

    def is_ready(self) -> bool:
        """Return whether the model is loaded and warmed up and its device answers."""
        return self._runner.is_loaded and self.is_healthy()

    def is_healthy(self) -> bool:
        """Return whether the device answers. After a device died, only a new process helps."""
        if not self._runner.is_loaded:
            return True
        return self._runner.is_device_healthy and self._device.is_healthy()

    @property
    def max_batch(self) -> int:
        """Return the most samples of one device call that fit; before `start` has ended, as configured."""
        return self._runner.plan.max_batch if self._runner.is_loaded else self._policy.max_batch

    @property
    def samples_per_s(self) -> float:
        """Return the drain rate in samples per second; 0 while warming up."""
        return super().samples_per_s if self._runner.is_loaded else 0.0

    def predicted_wait_s(self, num_samples: int) -> float:
        """Return the seconds until `num_samples` more samples would be predicted, after those that wait now."""
        rate = self.samples_per_s
        return (self.queue_depth + num_samples) / rate if rate else 0.0

    def _check_open(self) -> None:
        super()._check_open()
        if not self._runner.is_loaded:
            raise _warming_up()
        if not self.is_healthy():
            raise device_lost()

    async def _watch_device(self) -> None:
        """Fail the chunks of a device call that hangs, so that their requests end before the process does.

        Looks twice, because a process that was stopped (SIGSTOP) finds its call overdue although it goes on at once.
        """
        num_overdue = 0
        while True:
            num_overdue = 0 if self._device.is_healthy() else num_overdue + 1
            if num_overdue == 2:
                logger.error("device call hangs", extra={"limit_s": round(self._runner.call_limit_s(), 3)})
            if num_overdue >= 2:
                self.fail_chunks(device_lost())
            await asyncio.sleep(WATCH_S)

    async def _warm_up_further(self) -> None:
        """Warm up the larger batch shapes; between two of these calls the device thread takes batches that wait.

        Other threads start afterwards: each keeps memory of the calls that it has made, and none costs what is
        measured. Where calls are long they start before, and the warm-up goes on while nothing else is to do. On a
        device of one thread nothing is left to do.
        """
        while True:
            if self._runner.has_long_calls:
                self._start_all_threads()
                await self.until_rest(self._runner.plan.cost_s(self._runner.plan.max_batch) * WARM_UP_PAUSE_CALLS)
            if not await self._device.run(self._runner.warm_up_further):
                break
        self._start_all_threads()

    def _start_all_threads(self) -> None:
        if self._runner.can_run_parallel:
            self._device.start(num_threads=self._policy.parallel_calls)
            self.run_parallel(self._policy.parallel_calls)

    async def _encode_group(self, group: EncodeInput) -> EncodeOutput:
        loop, model = asyncio.get_running_loop(), self._runner.info
        return await loop.run_in_executor(self._encoders, lambda: [_encode_slice(*item, model=model) for item in group])


def _warming_up() -> ServiceError:
    return ServiceError("warming_up", "The model is being loaded; try again in a few seconds.", retry_after_s=2.0)


def _prepare_encoder() -> None:
    """Turn off OpenCV's own threads, one per core for each call; the pool is the parallelism."""
    cv2.setNumThreads(1)


def _encode_slice(
    piece: SampleSlice, logits: Logits, *, model: ModelInfo
) -> tuple[tuple[FrameMasks, ...] | ServiceError, float]:
    """Return the masks of one slice, or an error, and the seconds it took. Root of an encoder job."""
    started_s = time.perf_counter()
    samples, policy = piece.pending.chunk.samples, piece.pending.chunk.masks
    frames: tuple[FrameMasks, ...] | ServiceError
    try:
        frames = tuple(
            _with_maps(
                FrameMasks(
                    sample_time_s=float(samples.sample_times_s[at]),
                    timestamp_s=float(samples.timestamps_s[at]),
                    index=int(samples.indexes[at]),
                    masks=encode_masks(rows, policy=policy, model=model),
                ),
                rows,
                policy=policy,
                model=model,
            )
            for at, rows in zip(range(piece.start, piece.stop), logits, strict=True)
        )
    except Exception:
        logger.exception("masks could not be encoded", extra={"request_id": piece.pending.request_id})
        frames = ServiceError("internal", "The masks could not be encoded; the failure was logged.")
    return frames, time.perf_counter() - started_s


def _with_maps(frame: FrameMasks, logits: Logits, *, policy: MaskPolicy, model: ModelInfo) -> FrameMasks:
    """Return the frame with the probabilities behind its masks where they are asked for."""
    if not policy.with_maps or not frame.masks:
        return frame
    maps = probability_maps(logits, labels=[mask.label for mask in frame.masks], model=model)
    return MappedMasks(frame.sample_time_s, frame.timestamp_s, frame.index, frame.masks, maps)
