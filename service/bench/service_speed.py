"""The whole service as a process of its own, and its stages alone, in the same run."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from service.bench.figures import BenchPlan, Figures, OnStep, latency_figures
from service.bench.first_mask import measure_first_mask
from service.bench.hd_speed import floor_cpu_s, measure_hd, measure_keep_alive
from service.bench.http_load import Load, drive
from service.bench.live_speed import measure_live
from service.bench.processes import RunningService, running_over_redis, running_service
from service.domain.deadline import Deadline
from service.domain.options import AppliedOptions
from service.media.core_use import CoreUse
from service.media.decoders.pool import DecoderPool
from service.media.policy import DecodeRequest
from service.media.spool import Spool
from service.predictors.torch import usable_cores
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.wiring.policies import media_policy

CLIENTS = (1, 4, 16)
# The loads that other servers were measured with.
ITEM_CLIENTS = (1, 8, 32)
_ITEM_BYTES = 12_288


def measure_service(plan: BenchPlan, on_step: OnStep, *, frames_per_s: float | None) -> Figures:
    """Clips per second at several numbers of clients, and over the slowest stage alone.

    Args:
        plan: the first clip is the one that is sent.
        on_step: called with the name of the next step.
        frames_per_s: of the model alone, best batch; None where it was not measured.
    """
    name, clip = next(iter(plan.clips.items()))
    on_step(f"decoders alone on {name}")
    decoded_per_s, num_samples = asyncio.run(_decode_alone(clip.read_bytes(), plan.settings, plan.seconds))
    figures: Figures = {"service.decode_alone.clips_per_s": decoded_per_s}
    floor_s = floor_cpu_s(plan, on_step)
    on_step("service starting")
    with running_service(plan.settings) as service:
        figures |= measure_first_mask(plan, service, on_step)
        for clients in CLIENTS:
            on_step(f"service, {clients} clients")
            figures |= _drive_clips(f"service.c{clients}", clip, service, clients, plan.seconds)
        for clients in ITEM_CLIENTS:
            on_step(f"service's batcher over HTTP, {clients} clients")
            figures |= _drive_items(f"batcher.http.c{clients}", service, clients, plan.seconds)
        figures |= measure_keep_alive(plan, service, on_step)
        figures |= measure_hd(plan, service, on_step, floor_s=floor_s)
        figures |= measure_live(plan, service, on_step)
    if frames_per_s is not None:
        limit = min(decoded_per_s, frames_per_s / num_samples)
        best = max(figures[f"service.c{clients}.clips_per_s"] for clients in CLIENTS)
        figures["service.ratio_to_limit"] = best / limit
    return figures


def measure_redis(plan: BenchPlan, on_step: OnStep, *, local_p50_s: float) -> Figures:
    """What a Redis and a worker process between front and model add to one request; nothing without a redis-server."""
    on_step("front, Redis and worker")
    clip = next(iter(plan.clips.values()))
    with running_over_redis(plan.settings) as service:
        if service is None:
            return {}
        figures = _drive_clips("redis.c1", clip, service, 1, plan.seconds)
    return figures | {"redis.c1.overhead_s": figures["redis.c1.p50_s"] - local_p50_s}


def _drive_clips(name: str, clip: Path, service: RunningService, clients: int, seconds: float) -> Figures:
    load = Load("127.0.0.1", service.http_port, "/v1/segment", clip.read_bytes(), "video/mp4", clients, seconds)
    result = asyncio.run(drive(load))
    return latency_figures(name, result.latencies_s, elapsed_s=result.elapsed_s, unit="clips")


def _drive_items(name: str, service: RunningService, clients: int, seconds: float) -> Figures:
    body = bytes(_ITEM_BYTES)
    load = Load("127.0.0.1", service.http_port, "/v1/bench/batch", body, "application/octet-stream", clients, seconds)
    result = asyncio.run(drive(load))
    return latency_figures(name, result.latencies_s, elapsed_s=result.elapsed_s, unit="items")


async def _decode_alone(data: bytes, settings: Settings, seconds: float) -> tuple[float, int]:
    """Clips per second through all decoders and nothing else, and the samples of one clip."""
    pool = DecoderPool(
        media_policy(settings),
        num_decoders=settings.num_decoders,
        clock=time.monotonic,
        metrics=Metrics(),
        cores=CoreUse(num_cores=usable_cores()),
    )
    options = AppliedOptions(
        fps=1.0, start_s=0.0, end_s=None, threshold=0.5, size="source", labels=("sounding",), min_area=0
    )
    request = DecodeRequest(options, frame_height=224, frame_width=224)
    spool = Spool(max_bytes=1 << 40)
    num_clips, num_samples = 0, 0
    await pool.start()
    try:
        started_s = time.perf_counter()

        async def client() -> None:
            nonlocal num_clips, num_samples
            while time.perf_counter() - started_s < seconds:
                upload = await spool.open_upload(max_bytes=1 << 40)
                try:
                    await upload.write(data)
                    upload.finish()
                    async with pool.open(upload, request, deadline=Deadline()) as reader:
                        num_samples = sum([len(block) async for block in reader.blocks()])
                finally:
                    upload.close()
                num_clips += 1

        await asyncio.gather(*(client() for _ in range(settings.num_decoders)))
        return num_clips / (time.perf_counter() - started_s), max(1, num_samples)
    finally:
        await pool.aclose()
