"""The micro-batcher: forms device calls from samples of many requests. It runs on the event loop and owns no thread."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from service.aio.waits import bounded_wait, ends_within
from service.batching.device import BatchOutcome
from service.batching.device_load import Call, DeviceLoad
from service.batching.encode_groups import EncodeInput, encode_groups, num_samples
from service.batching.plan import BatchPlan
from service.batching.policy import BatchPolicy
from service.batching.report import BatchReport
from service.batching.returning import ReturningClients
from service.batching.sample_queue import PendingChunk, SampleQueue, SampleSlice
from service.batching.traces import BatchTraces
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.deadline import Clock, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, Traces

logger = logging.getLogger(__name__)

# Passes of the event loop without a new arrival before a batch leaves early. A request in a socket's buffer needs about
# three passes to reach the batcher (read, start the handler, queue), so requests that arrive together leave together.
SETTLE_PASSES = 3
# Longest wait for an efficient batch beside other calls, in windows.
MAX_WAIT_WINDOWS = 2
# Longest wait in seconds for the best batch while decoders keep the cores busy. On two cores, 16 clients with 10 s
# of 720p got 7 % more answers with it, and each of them sooner; 0.1 s gave about half of that.
BUSY_WAIT_S = 0.2
# Seconds after a frame of a live stream in which no batch waits so long: large calls would hold up the next frames.
# Streams of less than a frame a second are in no such hurry.
LIVE_CALM_S = 1.0

RunBatch = Callable[[Sequence[SampleSlice]], Awaitable[BatchOutcome]]
EncodeOutput = list[tuple[tuple[FrameMasks, ...] | ServiceError, float]]
EncodeGroup = Callable[[EncodeInput], Awaitable[EncodeOutput]]


class MicroBatcher:
    """Decides when a batch leaves and which samples it contains.

    A batch leaves when the device is free and (the batch is full, or no other samples are expected, or the wait is
    over). Samples are expected from requests in progress and from clients that were just answered and usually send
    their next request at once. The wait starts when the device could have started: at the arrival of the oldest sample,
    the end of the last call or the last answer, whichever was latest. It ends after the window, or earlier if waiting
    costs more device time than a joint call saves. A full batch is handed over while the device is still busy, so that
    it never idles under load. While decoders keep the cores busy that predictions are computed on, a batch waits
    longer, for the size at which a sample costs least, unless there are live streams. Every chunk ends with an answer
    or a ServiceError.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        *,
        run_batch: RunBatch,
        encode: EncodeGroup,
        plan: Callable[[], BatchPlan],
        metrics: Metrics,
        clock: Clock,
        traces: Traces = NO_TRACES,
        are_cores_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Create the batcher; `start_batching` starts it.

        Args:
            policy: bounds and window.
            run_batch: predicts slices on the device (see `BatchRunner.run`).
            encode: turns logits into masks outside the event loop; returns per slice its frames (or an error) and the
                seconds it took.
            plan: returns the current batch plan, which changes when a batch does not fit the device.
            metrics: batch and stage metrics.
            clock: seconds, monotonic.
            traces: spans of batches and of the stages of chunks.
            are_cores_busy: whether decoders keep the cores busy that predictions are computed on. When they no longer
                do, `look_again` must be called.
        """
        self._policy = policy
        self._are_cores_busy = are_cores_busy
        self._run_batch = run_batch
        self._encode = encode
        self._plan = plan
        self._clock = clock
        self._report = BatchReport(metrics, BatchTraces(traces), clock=clock)
        self._queue = SampleQueue(
            max_samples=policy.max_queued_samples,
            max_bytes=policy.max_queued_bytes,
            job_patience_s=policy.job_patience_s,
        )
        self._expected: Counter[str] = Counter()
        self._returning = ReturningClients(window_s=policy.window_s, clock=clock)
        self._answered: set[str] = set()  # expected requests that have had an answer
        self._live_s = -math.inf  # time of the last live frame's arrival
        self._answered_s = -math.inf  # time of the last call's end or the last answer, whichever is later
        self._wake = asyncio.Event()
        self._rest = asyncio.Event()  # while no request is in progress
        self._rest.set()
        self._num_arrivals = 0
        self._load = DeviceLoad(clock=clock)
        self._num_encoding = 0
        self._serving: dict[asyncio.Task[None], Sequence[SampleSlice]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._is_closing = False
        metrics.queue_depth.set_function(lambda: self._queue.num_samples)
        metrics.queue_oldest_seconds.set_function(lambda: self._queue.oldest_age_s(now_s=clock()))

    def start_batching(self) -> None:
        """Start the batcher's own task. The device is given one call at a time until `run_parallel`."""
        self._loop = asyncio.create_task(self._run(), name="micro-batcher")

    def run_parallel(self, parallel_calls: int) -> None:
        """Hand over so many calls at the same time from now on."""
        self._load.parallel_calls = parallel_calls
        self._wake.set()

    def look_again(self) -> None:
        """Decide again whether a batch may leave, because what it waited for has changed."""
        self._wake.set()

    async def aclose(self) -> None:
        """Stop at once. Chunks that still wait or run end with `draining`."""
        self._is_closing = True
        self.fail_chunks(_draining())
        tasks = [*self._serving, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def fail_chunks(self, error: ServiceError) -> None:
        """End every chunk that waits or runs with this error. Late results of their batches are ignored."""
        running = [piece.pending for slices in self._serving.values() for piece in slices]
        for pending in [*self._queue.chunks(), *running]:
            pending.fail(error)

    @property
    def queue_depth(self) -> int:
        """Return the number of samples that wait for the device."""
        return self._queue.num_samples

    @property
    def samples_per_s(self) -> float:
        """Return the drain rate in samples per second: measured, before that as planned."""
        return self._load.parallel_calls * (self._report.samples_per_s or self._plan().samples_per_s)

    def is_idle(self) -> bool:
        """Return whether a chunk sent now would start at once."""
        return not self._queue.num_samples and self._load.is_free and not self._may_wait_for_best()

    @property
    def busy_for_s(self) -> float:
        """Return the seconds until the device is free for another call, by the costs measured; 0 while it is."""
        return self._load.busy_for_s

    @contextmanager
    def expect(self, request_id: str) -> Iterator[None]:
        """Announce that this request may still send chunks, so that a batch may wait a moment for them."""
        self._expected[request_id] += 1
        self._returning.request_began()
        self._note_arrival()
        try:
            yield
        finally:
            self._expected[request_id] -= 1
            if not self._expected[request_id]:
                del self._expected[request_id]
                if request_id in self._answered:
                    self._answered.discard(request_id)
                    self._returning.request_ended()
            self._note_end()

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        """Return the masks of a chunk. Cancelling the call drops its samples from the queue.

        Raises:
            ServiceError: `draining`, `queue_full`, `deadline_exceeded`, `internal`, `backend_down`.
        """
        self._check_open()
        chunk.deadline.check(self._clock, stage="queue")
        future: asyncio.Future[SegmentedChunk] = asyncio.get_running_loop().create_future()
        pending = PendingChunk(chunk, self._clock(), future)
        if chunk.is_live:
            self._live_s = pending.arrived_s
        self._queue.add(pending, retry_after_s=max(1.0, self._queue.num_samples / self.samples_per_s))
        self._note_arrival()
        try:
            async with bounded_wait(chunk.deadline.timeout_s(self._clock), partial(deadline_exceeded, "queue")):
                answer = await future
            if chunk.request_id in self._expected and not chunk.is_live:  # the next frame may be on its way already
                self._answered.add(chunk.request_id)
            return answer
        finally:
            pending.is_dropped = True
            self._queue.drop(pending)
            self._note_end()

    async def until_rest(self, limit_s: float) -> None:
        """Wait until no request is in progress, but no longer than `limit_s` seconds."""
        await ends_within(limit_s, self._rest.wait())

    def _check_open(self) -> None:
        """Raise a ServiceError if chunks cannot be accepted."""
        if self._is_closing:
            raise _draining()

    async def _run(self) -> None:
        while True:
            try:
                await self._until_batch_may_leave()
                slices, call = self._next_batch()
                task = asyncio.create_task(self._serve(slices, call), name="batch")
                self._serving[task] = slices
                task.add_done_callback(self._forget)
            except Exception:
                logger.exception("batch could not be formed")
                for pending in self._queue.chunks():
                    pending.fail(ServiceError("internal", "The batch could not be formed; the failure was logged."))
                    self._queue.drop(pending)

    def _next_batch(self) -> tuple[list[SampleSlice], Call]:
        """Take the samples of the next batch out of the queue, and note its call."""
        now_s = self._clock()
        self._report.leaves(waited_s=self._queue.oldest_age_s(now_s=now_s))
        slices = self._queue.take(self._plan().next_size(self._queue.num_samples), now_s=now_s)
        return slices, self._load.hand_over(self._plan().cost_s(sum(map(len, slices))))

    async def _until_batch_may_leave(self) -> None:
        quiet_passes = 0
        while True:
            self._expire()
            has_room = self._load.has_room and self._num_encoding <= 2 * self._policy.max_batch
            is_full = self._queue.num_samples >= self._plan().max_batch
            if has_room and is_full:
                return
            if not has_room or not self._queue.num_samples or not self._load.is_free:
                self._wake.clear()
                await self._wake.wait()
            elif (wait_s := self._wait_s()) > 0:
                await self._next_wake(wait_s)
            elif quiet_passes < SETTLE_PASSES:
                seen = self._num_arrivals
                await asyncio.sleep(0)
                quiet_passes = quiet_passes + 1 if seen == self._num_arrivals else 0
            else:
                return

    def _wait_s(self) -> float:
        """Return the seconds to wait for more samples; 0 or less to send the batch now."""
        return max(self._wait_for_best_s(), self._wait_beside_others_s(), self._worthwhile_wait_s())

    def _wait_for_best_s(self) -> float:
        """Return the seconds to wait for the best batch while decoders keep the cores busy; 0 or less to go on now.

        Each chunk that waits keeps as much time for its call as it may wait.
        """
        if self._queue.num_samples >= self._plan().best_size or not self._may_wait_for_best():
            return 0.0
        left_s = min(pending.chunk.deadline.remaining_s(self._clock) for pending in self._queue.chunks())
        return min(BUSY_WAIT_S - self._queue.oldest_age_s(now_s=self._clock()), left_s - BUSY_WAIT_S)

    def _may_wait_for_best(self) -> bool:
        """Return whether an idle device costs nothing now, and there is no live stream."""
        is_calm = self._clock() - self._live_s > LIVE_CALM_S
        return is_calm and self._policy.window_s > 0 and self._are_cores_busy()

    def _wait_beside_others_s(self) -> float:
        """Return the seconds to wait for an efficient batch beside other calls, which share the cores.

        0 or less to go on now.
        """
        plan = self._plan()
        if self._load.is_idle or self._queue.num_samples >= plan.efficient_size:
            return 0.0
        return MAX_WAIT_WINDOWS * self._policy.window_s - self._queue.oldest_age_s(now_s=self._clock())

    async def _next_wake(self, timeout_s: float) -> None:
        self._wake.clear()
        await ends_within(timeout_s, self._wake.wait())

    def _worthwhile_wait_s(self) -> float:
        """Return the seconds to wait for expected samples while the device is idle; 0 or less to send the batch now."""
        num_others = sum(not self._queue.has_request(request_id) for request_id in self._expected)
        num_others += self._returning.num_expected()
        if not num_others:
            return 0.0
        now_s = self._clock()
        waited_s = min(self._queue.oldest_age_s(now_s=now_s), now_s - self._answered_s)
        return min(self._policy.window_s, self._plan().saving_s(self._queue.num_samples, num_others)) - waited_s

    def _expire(self) -> None:
        for pending in self._queue.expired(now_s=self._clock()):
            pending.fail(deadline_exceeded("queue"))
            self._queue.drop(pending)

    async def _serve(self, slices: Sequence[SampleSlice], call: Call) -> None:
        """Take one batch through the device and the encoders to its callers. Root of its task."""
        try:
            try:
                outcome = await self._run_batch(slices)
                groups = list(encode_groups(outcome.results))
                self._num_encoding += sum(map(num_samples, groups))
            finally:
                self._load.end(call)
                self._answered_s = self._clock()
                self._wake.set()
            self._report.predicted(outcome)
            self._fail_guilty(outcome)
            if len(groups) == 1:
                await self._finish(groups[0])  # without a task for it
            else:
                await asyncio.gather(*map(self._finish, groups))
        except Exception:
            logger.exception("batch could not be served")
            error = ServiceError("internal", "The batch could not be served; the failure was logged.")
            for piece in slices:
                piece.pending.fail(error)

    async def _finish(self, group: EncodeInput) -> None:
        """Encode some slices and return their masks to the callers."""
        try:
            encoded = await self._encode(group)
        finally:
            self._num_encoding -= num_samples(group)
            self._answered_s = self._clock()
            self._wake.set()
        self._report.encoded([(piece, *result) for (piece, _), result in zip(group, encoded, strict=True)])
        for (piece, _), (frames, _) in zip(group, encoded, strict=True):
            if isinstance(frames, ServiceError):
                piece.pending.fail(frames)
            else:
                piece.pending.fill(piece.start, frames, now_s=self._clock())

    def _fail_guilty(self, outcome: BatchOutcome) -> None:
        for piece, result in outcome.results:
            if isinstance(result, ServiceError):
                piece.pending.fail(result)
                self._queue.drop(piece.pending)

    def _note_arrival(self) -> None:
        self._num_arrivals += 1
        self._rest.clear()
        self._wake.set()

    def _note_end(self) -> None:
        """Note the end of a request or of a chunk."""
        self._wake.set()
        if not self._expected and not self._queue.num_samples and self._load.is_idle:
            self._rest.set()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._serving.pop(task, None)


def _draining() -> ServiceError:
    return ServiceError("draining", "The service is shutting down; try again elsewhere or a little later.")
