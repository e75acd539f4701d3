"""The whole service as a process of its own, and its stages alone, in the same run."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from service.bench.figures import BenchPlan, Figures, OnStep, latency_figures
from service.bench.http_load import Load, drive
from service.domain.deadline import Deadline
from service.domain.options import AppliedOptions
from service.media.decoder import DecoderPool
from service.media.policy import DecodeRequest
from service.media.upload import Spool
from service.policies import media_policy
from service.settings import Settings
from service.telemetry.metrics import Metrics

CLIENTS = (1, 4, 16)
ITEM_CLIENTS = (1, 8, 32)
"""The loads that other servers were measured with."""
_READY = re.compile(r"avesformer is ready: (\S+)")
_START_S = 180.0
_STOP_S = 60.0
_ITEM_BYTES = 12_288


class ServiceDidNotStartError(Exception):
    """The service ended before it was ready; the message is its last words."""


def measure_service(plan: BenchPlan, on_step: OnStep, *, frames_per_s: float | None) -> Figures:
    """Clips per second at several numbers of clients, and over the slowest stage alone.

    Args:
        plan: the first clip is the one that is sent.
        on_step: is told what comes next.
        frames_per_s: of the model alone, best batch; None where it was not measured.
    """
    name, clip = next(iter(plan.clips.items()))
    on_step(f"decoders alone on {name}")
    decoded_per_s, num_samples = asyncio.run(_decode_alone(clip.read_bytes(), plan.settings, plan.seconds))
    figures: Figures = {"service.decode_alone.clips_per_s": decoded_per_s}
    on_step("service starting")
    with running_service(plan) as url:
        port = urlsplit(url).port or 80
        for clients in CLIENTS:
            on_step(f"service, {clients} clients")
            load = Load("127.0.0.1", port, "/v1/segment", clip.read_bytes(), "video/mp4", clients, plan.seconds)
            result = asyncio.run(drive(load))
            figures |= latency_figures(
                f"service.c{clients}", result.latencies_s, elapsed_s=result.elapsed_s, unit="clips"
            )
        for clients in ITEM_CLIENTS:
            on_step(f"service's batcher over HTTP, {clients} clients")
            body = bytes(_ITEM_BYTES)
            load = Load("127.0.0.1", port, "/v1/bench/batch", body, "application/octet-stream", clients, plan.seconds)
            result = asyncio.run(drive(load))
            figures |= latency_figures(
                f"batcher.http.c{clients}", result.latencies_s, elapsed_s=result.elapsed_s, unit="items"
            )
    if frames_per_s is not None:
        limit = min(decoded_per_s, frames_per_s / num_samples)
        best = max(figures[f"service.c{clients}.clips_per_s"] for clients in CLIENTS)
        figures["service.ratio_to_limit"] = best / limit
    return figures


@contextmanager
def running_service(plan: BenchPlan) -> Iterator[str]:
    """A service process on free ports; its URL. Ended with SIGTERM."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "serve", "--port", "0", "--grpc-port", "0"]
    command += ["--device", plan.settings.device]
    if plan.settings.checkpoint is not None:
        command += ["--checkpoint", str(plan.settings.checkpoint)]
    environment = os.environ | {"AVES_BENCH_ROUTES": "1", "AVES_LOG_LEVEL": "warning"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield _wait_until_ready(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    until_s = time.monotonic() + _START_S
    said = ""
    for line in process.stderr:
        said = line.strip() or said
        found = _READY.search(line)
        if found is not None:
            return found.group(1)
        if time.monotonic() > until_s:
            break
    raise ServiceDidNotStartError(said or "the service did not start")


async def _decode_alone(data: bytes, settings: Settings, seconds: float) -> tuple[float, int]:
    """Clips per second through all decoders and nothing else, and the samples of one clip."""
    pool = DecoderPool(
        media_policy(settings), num_decoders=settings.num_decoders, clock=time.monotonic, metrics=Metrics()
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
