"""Record a batch that has ended: metrics, spans, the times of its chunks, and the drain rate."""

from __future__ import annotations

from collections.abc import Sequence

from service.batching.device import BatchOutcome
from service.batching.sample_queue import SampleSlice
from service.batching.traces import BatchTraces
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.telemetry.metrics import Metrics

# Weight of the newest batch in the moving average of the drain rate.
RATE_SMOOTHING = 0.2


class BatchReport:
    """Records batches as they leave, come back from the device, and are encoded.

    Args:
        metrics: batch and stage metrics.
        traces: spans of batches and of the stages of chunks.
        clock: seconds, monotonic.
    """

    def __init__(self, metrics: Metrics, traces: BatchTraces, *, clock: Clock) -> None:
        self._metrics = metrics
        # Looking a label up takes longer than counting, and each chunk is counted twice.
        self._queue_s, self._predict_s, self._encode_s = map(
            metrics.stage_duration_seconds.labels, ("queue", "predict", "encode")
        )
        self._traces = traces
        self._clock = clock
        self._seconds_per_sample: float | None = None

    @property
    def samples_per_s(self) -> float | None:
        """Measured drain rate in samples per second of device time; None before the first batch."""
        return None if self._seconds_per_sample is None else 1.0 / max(self._seconds_per_sample, 1e-9)

    def leaves(self, *, waited_s: float) -> None:
        """Record that a batch leaves whose oldest sample has waited for `waited_s`."""
        self._metrics.batch_wait_seconds.observe(waited_s)

    def predicted(self, outcome: BatchOutcome) -> None:
        """Record a batch that came back from the device; one whose samples were all dropped is not counted."""
        num = sum(len(piece) for piece, _ in outcome.results)
        if not num:
            return
        self._metrics.batch_size.observe(num)
        self._metrics.batch_requests.observe(len({piece.pending.request_id for piece, _ in outcome.results}))
        self._predict_s.observe(outcome.predict_s)
        latest = outcome.predict_s / num
        before = self._seconds_per_sample
        self._seconds_per_sample = latest if before is None else before + RATE_SMOOTHING * (latest - before)
        now_s = self._clock()
        self._traces.predicted(outcome, ended_s=now_s)
        for pending in {id(piece.pending): piece.pending for piece, _ in outcome.results}.values():
            pending.predict_s += outcome.predict_s
            waited_s = max(0.0, now_s - pending.arrived_s - outcome.predict_s)
            self._queue_s.observe(waited_s)

    def encoded(self, results: Sequence[tuple[SampleSlice, tuple[FrameMasks, ...] | ServiceError, float]]) -> None:
        """Record slices that one encoder thread has encoded one after the other, each with its result and seconds."""
        self._traces.encoded(
            [piece for piece, _, _ in results], [encode_s for _, _, encode_s in results], ended_s=self._clock()
        )
        for piece, frames, encode_s in results:
            self._encode_s.observe(encode_s)
            piece.pending.encode_s += encode_s
            if not isinstance(frames, ServiceError):
                self._metrics.samples_total.inc(len(frames))
