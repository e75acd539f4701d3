"""Seconds that a request spends in each stage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.domain.chunk import SampleBlock, SegmentedChunk
from service.domain.deadline import Clock
from service.domain.request import RequestContext
from service.domain.result import ANSWER_DECIMALS
from service.telemetry.metrics import Metrics


@dataclass(slots=True)
class Timings:
    """Seconds by stage. Stages of one request overlap, so they do not add up to the total.

    `stage` is what the request waits for now; the detail of a missed deadline names it.
    """

    clock: Clock
    started_at_s: float
    stage: str = "upload"
    upload_s: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    predict_s: float = 0.0
    encode_s: float = 0.0

    @classmethod
    def of(cls, context: RequestContext, *, clock: Clock) -> Timings:
        """Return the timings of a request whose upload has been received and whose decoding begins now."""
        now_s = clock()
        started_at_s = now_s if context.started_at_s is None else context.started_at_s
        return cls(clock, started_at_s, stage="decoding", upload_s=now_s - started_at_s)

    def note_decoder(self, *, waited_s: float, opened_s: float) -> None:
        """Count the time until a decoder knew the clip: `opened_s` seconds, of which `waited_s` in the queue."""
        self.queue_s += waited_s
        self.decode_s += opened_s - waited_s

    async def decoding(self, blocks: AsyncIterator[SampleBlock]) -> AsyncIterator[SampleBlock]:
        """Yield the same blocks. The time spent waiting for each counts as decoding."""
        while True:
            since_s = self.clock()
            block = await anext(blocks, None)
            self.decode_s += self.clock() - since_s
            if block is None:
                return
            yield block

    def add(self, chunk: SegmentedChunk) -> None:
        """Add the stages of a chunk."""
        self.queue_s += chunk.queue_s
        self.predict_s += chunk.predict_s
        self.encode_s += chunk.encode_s

    def observe(self, metrics: Metrics) -> None:
        """Observe the stages upload and decode in the histogram; the other stages are observed where they happen."""
        metrics.stage_duration_seconds.labels(stage="upload").observe(self.upload_s)
        metrics.stage_duration_seconds.labels(stage="decode").observe(self.decode_s)

    def summary(self) -> dict[str, float]:
        """Return the `timings_s` of the answer."""
        seconds = {
            "upload": self.upload_s,
            "decode": self.decode_s,
            "queue": self.queue_s,
            "predict": self.predict_s,
            "encode": self.encode_s,
            "total": self.clock() - self.started_at_s,
        }
        return {stage: round(value, ANSWER_DECIMALS) for stage, value in seconds.items()}
