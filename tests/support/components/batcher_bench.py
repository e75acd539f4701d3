"""A micro-batcher whose device and encoder are in the test's hands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
from support.components.chunks import FakeClock, make_chunk

from service.batching.device import BatchOutcome
from service.batching.micro_batcher import MicroBatcher
from service.batching.sample_queue import SampleSlice
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.telemetry.metrics import Metrics

# A window that is never over in real time.
LONG_S = 3600.0


@dataclass
class HandDevice:
    """A device whose calls end when the test says so; `is_open` ends them at once."""

    clock: FakeClock
    is_open: bool = False
    batches: list[list[SampleSlice]] = field(default_factory=list)
    gates: list[asyncio.Event] = field(default_factory=list)
    guilty: set[str] = field(default_factory=set)
    breaks: bool = False

    async def run(self, slices):
        gate = asyncio.Event()
        self.gates.append(gate)
        self.batches.append(list(slices))
        if self.is_open:
            gate.set()
        await gate.wait()
        if self.breaks:
            raise RuntimeError("the device thread is gone")
        results = []
        for piece in slices:
            if piece.pending.is_dropped:
                continue
            if piece.pending.request_id in self.guilty:
                results.append((piece, ServiceError("internal", "guilty")))
            else:
                rows = np.arange(piece.start, piece.stop, dtype=np.float32)
                results.append((piece, rows[:, None, None, None]))
        return BatchOutcome(results, 0.25)

    def sizes(self) -> list[int]:
        return [sum(map(len, batch)) for batch in self.batches]


@dataclass
class Bench:
    batcher: MicroBatcher
    device: HandDevice
    clock: FakeClock
    metrics: Metrics
    tasks: list[asyncio.Task] = field(default_factory=list)

    def send(self, request_id: str, num: int = 1, **more) -> asyncio.Task:
        task = asyncio.create_task(self.batcher.segment(make_chunk(request_id, num, size_px=16, **more)))
        self.tasks.append(task)
        return task

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value("avesformer_" + name, labels) or 0.0


async def encode(group):
    """Answers say which sample of the chunk they belong to."""
    answers = []
    for piece, logits in group:
        samples = piece.pending.chunk.samples
        frames = tuple(
            FrameMasks(samples.sample_times_s[at], samples.timestamps_s[at], int(rows[0, 0, 0]), ())
            for at, rows in zip(range(piece.start, piece.stop), logits, strict=True)
        )
        answers.append((frames, 0.125))
    return answers


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)
