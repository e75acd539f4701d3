"""One live stream against a service process: latency of its answers, and frames dropped."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

import numpy as np

from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.processes import RunningService
from service.client.grpc_async import AsyncGrpcClient
from service.domain.live import LiveFrame, LiveInput, LiveMasks, LiveOptions, SoundPiece

FRAMES_PER_S = 10
SIDE_PX = 224
SOUND_RATE_HZ = 16_000


def measure_live(plan: BenchPlan, service: RunningService, on_step: OnStep) -> Figures:
    """A 224 px RGB24 stream at 10 frames per second, its sound sent just before each frame."""
    on_step("one live stream")
    answers = asyncio.run(
        _stream(service.grpc_target, num_frames=max(FRAMES_PER_S, round(plan.seconds * FRAMES_PER_S)))
    )
    latencies_s = sorted(answer.latency_s for answer in answers)
    dropped = answers[-1].num_dropped_frames if answers else math.inf
    return {
        "live.c1.p50_s": latencies_s[len(latencies_s) // 2],
        "live.c1.p95_s": latencies_s[min(len(latencies_s) - 1, int(len(latencies_s) * 0.95))],
        "live.c1.num_dropped_frames": float(dropped),
    }


async def _stream(target: str, *, num_frames: int) -> list[LiveMasks]:
    async with AsyncGrpcClient(target) as client:
        events = client.live(_camera(num_frames), LiveOptions(size="model"))
        return [event async for event in events if isinstance(event, LiveMasks)]


async def _camera(num_frames: int) -> AsyncIterator[LiveInput]:
    """Frames at their own time, as a camera gives them."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8).tobytes()
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(SOUND_RATE_HZ // FRAMES_PER_S) / SOUND_RATE_HZ)
    pcm = (tone * 32767).astype("<i2").tobytes()
    started_s = time.perf_counter()
    for number in range(1, num_frames + 1):
        at_s = number / FRAMES_PER_S
        await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
        yield SoundPiece(at_s - 1 / FRAMES_PER_S, pcm, SOUND_RATE_HZ)
        yield LiveFrame(at_s, frame, "rgb24", SIDE_PX, SIDE_PX)
