"""Live streams against a service process: latency of their answers, and frames dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np

from service.bench.figures import BenchPlan, Figures, OnStep
from service.bench.processes import RunningService
from service.client.grpc_async import AsyncGrpcClient
from service.domain.chunk import SAMPLE_RATE_HZ
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveInput, LiveMasks, LiveOptions, SoundPiece

SIDE_PX = 224
# Name of a load, streams at once, and their frames per second.
ON_ANY = (("live.c1", 1, 10), ("live.c16_10fps", 16, 10))
ON_GPU = ("live.c16", 16, 25)


def measure_live(plan: BenchPlan, service: RunningService, on_step: OnStep) -> Figures:
    """Drive 1 and 16 streams of 224 px RGB24 at 10 frames per second; on a GPU also 16 at 25.

    Sound is sent just before its frame.

    Returns:
        `<load>.p50_s`, `.p95_s`, `.num_dropped_frames` and `.num_frames`, over all streams of a load.

    Raises:
        RuntimeError: a stream was answered nothing.
    """
    loads = [*ON_ANY, ON_GPU] if _has_gpu(service) else ON_ANY
    figures: Figures = {}
    for name, streams, frames_per_s in loads:
        on_step(f"live, {streams} at {frames_per_s} frames a second")
        measured = measure_streams(name, service.grpc_target, streams, frames_per_s, seconds=plan.seconds)
        figures |= asyncio.run(measured)
    return figures


def _has_gpu(service: RunningService) -> bool:
    """The service counts its device's memory only where that is a GPU's."""
    exposition = httpx.get(f"http://127.0.0.1:{service.http_port}/metrics", timeout=30).text
    lines = [line.split() for line in exposition.splitlines() if line.startswith("avesformer_device_memory_bytes ")]
    return any(float(value) > 0 for _, value in lines)


async def measure_streams(name: str, target: str, streams: int, frames_per_s: int, *, seconds: float) -> Figures:
    """So many streams at once for about `seconds`; raises RuntimeError where one is answered nothing."""
    num_frames = max(frames_per_s, round(seconds * frames_per_s))
    answered = await asyncio.gather(*(_stream(target, num_frames, frames_per_s) for _ in range(streams)))
    if not all(answered):
        raise RuntimeError("a live stream was answered nothing")
    latencies_s = sorted(answer.latency_s for answers in answered for answer in answers)
    return {
        f"{name}.p50_s": latencies_s[len(latencies_s) // 2],
        f"{name}.p95_s": latencies_s[min(len(latencies_s) - 1, int(len(latencies_s) * 0.95))],
        f"{name}.num_dropped_frames": float(sum(answers[-1].num_dropped_frames for answers in answered)),
        f"{name}.num_frames": float(streams * num_frames),
    }


async def _stream(target: str, num_frames: int, frames_per_s: int) -> list[LiveMasks]:
    try:
        async with AsyncGrpcClient(target) as client:
            events = client.live(_camera(num_frames, frames_per_s), LiveOptions(size="model"))
            return [event async for event in events if isinstance(event, LiveMasks)]
    except ServiceError as error:
        raise RuntimeError(f"a live stream ended: {error.detail}") from None


async def _camera(num_frames: int, frames_per_s: int) -> AsyncIterator[LiveInput]:
    """Frames at their own time, as a camera gives them."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8).tobytes()
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE_HZ // frames_per_s) / SAMPLE_RATE_HZ)
    pcm = (tone * 32767).astype("<i2").tobytes()
    started_s = time.perf_counter()
    for number in range(1, num_frames + 1):
        at_s = number / frames_per_s
        await asyncio.sleep(max(0.0, started_s + at_s - time.perf_counter()))
        yield SoundPiece(at_s - 1 / frames_per_s, pcm, SAMPLE_RATE_HZ)
        yield LiveFrame(at_s, frame, "rgb24", SIDE_PX, SIDE_PX)
