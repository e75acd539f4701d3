"""Spans of batches: a batch has a span in a trace of its own, and each chunk has spans of its stages in its trace."""

from __future__ import annotations

from collections.abc import Sequence

from service.batching.device import BatchOutcome
from service.batching.sample_queue import PendingChunk, SampleSlice
from service.domain.errors import ServiceError
from service.telemetry.traces import Traces, is_sampled


class BatchTraces:
    """Records the stages queue, predict and encode of chunks whose traces are sampled."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def predicted(self, outcome: BatchOutcome, *, ended_s: float) -> None:
        """Record a batch that came back from the device.

        A batch belongs to no single request, so its span starts a trace and links to its chunks. The `predict` span of
        each chunk links back to it.
        """
        codes = _codes(outcome) if self._traces.is_on else {}
        if not codes:
            return
        times_s = (ended_s - outcome.predict_s, ended_s)
        batch = self._traces.record(
            "batch",
            times_s,
            links=[pending.chunk.traceparent for pending in codes],
            num_samples=sum(len(piece) for piece, _ in outcome.results),
            num_requests=len({piece.pending.request_id for piece, _ in outcome.results}),
        )
        for pending, code in codes.items():
            parent = pending.chunk.traceparent
            self._traces.record("queue", (pending.arrived_s, times_s[0]), parent=parent)
            self._traces.record("predict", times_s, parent=parent, links=[batch], code=code)

    def encoded(self, slices: Sequence[SampleSlice], seconds: Sequence[float], *, ended_s: float) -> None:
        """Record slices that one encoder thread has encoded one after the other."""
        if not self._traces.is_on:
            return
        for piece, encode_s in reversed(list(zip(slices, seconds, strict=True))):
            parent = piece.pending.chunk.traceparent
            if is_sampled(parent):
                times_s = (ended_s - encode_s, ended_s)
                self._traces.record("encode", times_s, parent=parent, num_samples=len(piece))
            ended_s -= encode_s


def _codes(outcome: BatchOutcome) -> dict[PendingChunk, str]:
    """Return the sampled chunks of a batch, each with the code it ended with."""
    codes: dict[PendingChunk, str] = {}
    for piece, result in outcome.results:
        if is_sampled(piece.pending.chunk.traceparent):
            code = result.code if isinstance(result, ServiceError) else "ok"
            codes[piece.pending] = code if code != "ok" else codes.get(piece.pending, "ok")
    return codes
