"""CPU time of whole clips over that of their two costly parts, and small clips over one connection."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from service.bench.clip_speed import decode_in_process
from service.bench.clips import SMALL_CLIP, make_clip
from service.bench.figures import BenchPlan, Figures, OnStep, cpu_s
from service.bench.http_load import Load, drive
from service.bench.process_usage import tree_cpu_s
from service.bench.processes import RunningService

HD_CLIENTS = 16
_REPEATS = 5
_SAMPLES = 16


def floor_cpu_s(plan: BenchPlan, on_step: OnStep) -> float:
    """CPU seconds of one clip of `plan.hd_clip` at least: decoded in process, its samples through the model in 16s."""
    from model.evaluation.benchmark import cpu_s_per_sample
    from service.predictors.torch import default_threads

    on_step("decoding and model alone, CPU seconds")
    samples: list[int] = []
    decode_s = cpu_s(lambda: samples.append(decode_in_process(plan.hd_clip)), num_calls=_REPEATS)
    settings = plan.settings
    model_s = cpu_s_per_sample(
        settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.torch_threads or default_threads(),
        batch=_SAMPLES,
        seconds=plan.seconds / 2,
    )
    return decode_s + samples[0] * model_s


def measure_hd(plan: BenchPlan, service: RunningService, on_step: OnStep, *, floor_s: float) -> Figures:
    """Drive 16 clients that send `plan.hd_clip` again and again.

    Returns:
        `service.hd.clips_per_s`, `.cpu_s_per_clip` of all processes of the service, `.cpu_ratio_to_floor`,
        and `.ratio_to_limit`: clips per second over those of all cores that spend `floor_s` a clip.

    Raises:
        RuntimeError: no clip was answered.
    """
    on_step(f"service, {HD_CLIENTS} clients with 720p clips")
    load = _clip_load(plan.hd_clip, service, num_clients=HD_CLIENTS, seconds=plan.seconds)
    before_s = tree_cpu_s(service.pid)
    result = asyncio.run(drive(load))
    spent_s = tree_cpu_s(service.pid) - before_s
    num_clips = len(result.latencies_s)
    if not num_clips:
        raise RuntimeError("the service answered no clip")
    cores = len(os.sched_getaffinity(0))
    return {
        "service.hd.clips_per_s": num_clips / result.elapsed_s,
        "service.hd.cpu_s_per_clip": spent_s / num_clips,
        "service.hd.floor_cpu_s": floor_s,
        "service.hd.cpu_ratio_to_floor": spent_s / num_clips / floor_s,
        "service.hd.ratio_to_limit": num_clips / result.elapsed_s * floor_s / cores,
    }


def measure_keep_alive(plan: BenchPlan, service: RunningService, on_step: OnStep) -> Figures:
    """Send a 1 s clip of 224 px again and again over one connection.

    Returns:
        `service.keep_alive.p50_s` at the client, `.stages_s` (median sum of the stages in `timings_s`) and
        `.ratio_to_stages`, their quotient.

    Raises:
        RuntimeError: no clip was answered.
    """
    on_step("small clips over one connection")
    bodies: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="avesformer-bench-") as folder:
        clip = make_clip(Path(folder), SMALL_CLIP, seconds=1)
        load = _clip_load(clip, service, num_clients=1, seconds=plan.seconds)
        result = asyncio.run(drive(replace(load, on_body=bodies.append)))
    if not result.latencies_s:
        raise RuntimeError("the service answered no clip")
    stages_s = statistics.median(map(_stages_s, bodies))
    p50_s = statistics.median(result.latencies_s)
    return {
        "service.keep_alive.p50_s": p50_s,
        "service.keep_alive.stages_s": stages_s,
        "service.keep_alive.ratio_to_stages": p50_s / stages_s,
    }


def _clip_load(clip: Path, service: RunningService, *, num_clients: int, seconds: float) -> Load:
    body = clip.read_bytes()
    return Load("127.0.0.1", service.http_port, "/v1/segment", body, "video/mp4", num_clients, seconds)


def _stages_s(body: bytes) -> float:
    timings_s: dict[str, float] = json.loads(body)["timings_s"]
    return sum(seconds for stage, seconds in timings_s.items() if stage != "total")
