"""Hours of video as one job: is memory flat, and does a killed process cost more than its last stored sample?

A long clip is submitted to a service with the fake predictor. At half of it the process is killed with SIGKILL and
started again. Memory is that of the whole process family, without children that decode.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from support.inputs.clips import ClipSpec
from support.inputs.long_clip import write_long_clip
from support.proof import Found, Run, found
from support.servers.ports import free_port
from support.servers.service_process import ServiceProcess

MIB = 1024**2
MAX_GROWTH_MIB = 50.0
_PIECE = ClipSpec(
    width=320,
    height=240,
    fps=5,
    num_frames=250,
    b_frames=0,
    gop=50,
    codec_options={"crf": "40"},
    flash_frames=frozenset(range(40, 90)),
)
# Shares of the samples: the process is killed at the first; memory is compared between the others and the end.
_KILL_AT, _EARLY_FROM = 0.5, 0.6
_POLL_S = 0.25


async def run(run: Run) -> Found:
    """Submit, kill, start again, and compare the result with what must be there."""
    with tempfile.TemporaryDirectory(prefix="long-job-") as name:
        return await asyncio.to_thread(_scene, Path(name), run.sizes.job_s, run.sizes.job_batch_s)


def _scene(folder: Path, job_s: float, batch_s: float) -> Found:
    num_pieces = max(2, round(job_s / _PIECE.duration_s))
    num_samples = round(num_pieces * _PIECE.duration_s)
    clip = folder / "long.mp4"
    write_long_clip(clip, piece=_PIECE, num_pieces=num_pieces)
    settings = {"state_dir": folder / "state", "port": free_port(), "cache_bytes": 0, "log_level": "error"}
    settings |= {"fake_batch_s": batch_s}
    with ServiceProcess(**settings) as first, first.client() as client:
        posted = client.post("/v1/jobs", content=clip.read_bytes(), headers={"Content-Type": "video/mp4"})
        location = posted.headers["location"]
        before, _ = _follow(first, client, location, until=_KILL_AT)
        num_stored = round(client.get(location).json()["progress"] * num_samples)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with ServiceProcess(**settings) as second, second.client() as client:
        after, state = _follow(second, client, location, until=1.0)
        computed = round(second.metric("samples_total"))
        frames = [frame["sample_time_s"] for frame in client.get(f"{location}/result").json().get("frames", ())]
        disk_bytes = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())
    again = max(0, computed - (num_samples - num_stored))  # some may have been stored after the last look
    growth_mib = _growth_mib(after)
    figures = {
        "clip_s": num_samples,
        "clip_mib": round(clip.stat().st_size / MIB, 1),
        "samples_stored_at_the_kill": num_stored,
        "samples_computed_twice": again,
        "memory_mib": {"at_the_kill": before[-1][1] // MIB, "at_the_end": after[-1][1] // MIB},
        "growth_mib": round(growth_mib, 1),
        "disk_mib_at_the_end": round(disk_bytes / MIB, 1),
        "state": state,
    }
    never = {
        "the job did not end as done": state != "done",
        "the kill came after the end": not computed,
        "samples are missing or there twice": frames != [number + 0.9375 for number in range(num_samples)],
        "more than the last minute was computed twice": again > 60,
        f"memory grew by over {MAX_GROWTH_MIB:g} MiB": growth_mib > MAX_GROWTH_MIB,
    }
    return found(figures, never=never)


def _follow(
    service: ServiceProcess, client: httpx.Client, location: str, *, until: float
) -> tuple[list[tuple[float, int]], str]:
    """Wait for a share of the samples, or the end; returns progress and memory over time, and the state."""
    rows: list[tuple[float, int]] = []
    while True:
        job = client.get(location).json()
        rows.append((job["progress"], _held_bytes(service)))
        if job["state"] not in ("queued", "running") or job["progress"] >= until:
            return rows, job["state"]
        time.sleep(_POLL_S)


def _held_bytes(service: ServiceProcess) -> int:
    """Memory that the service and its zygote hold alone. Decoders are children of the zygote and live for a clip."""
    held = 0
    for process in [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children()]:
        try:
            held += process.memory_full_info().uss
        except psutil.Error:
            continue  # it has just ended
    return held


def _growth_mib(rows: list[tuple[float, int]]) -> float:
    """Return by how much the last third of the run exceeds the time before it."""
    running = [row for row in rows if _EARLY_FROM <= row[0] < 1.0]
    half = len(running) // 2
    if half < 2:
        return 0.0
    return (max(held for _, held in running[half:]) - max(held for _, held in running[:half])) / MIB
