"""What the greedy and the slow cost others: R6 overload, R8 slow clients, and eighty clients of one key beside eight.

The service is a process of its own with an emulated device. Where there are two cores or more, the clients have one
core and the service the others, so that the figures are the service's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from load.strangers import target_of
from support.clients.abuse_load import SORTS, Outcome, Target, arrivals, clients, slow_clients
from support.inputs.clips import make_clip
from support.proof import Found, Run, found
from support.servers.service_process import ServiceProcess

# A batch of the emulated device: capacity is bounded by it and not by the two processes' share of the cores.
_BATCH_S = 0.2
# Frames of the clip that slow readers ask for, computed once and then cached, and least bytes of its lines: more than
# the kernel buffers for a connection (256 KiB, which Linux doubles).
_READ_FRAMES = 6000
_READ_BYTES = 700_000
# Slow clients wait when the service used less of a core than this over so many seconds. Readers are cut after 30 s.
_SETTLE_S, _MOST_SETTLE_S, _IDLE_SHARE = 0.5, 15.0, 0.1


def service(**settings: object) -> ServiceProcess:
    """A service with shipped bounds whose device is the bottleneck."""
    return ServiceProcess(
        **{"cache_bytes": 0, "fake_batch_s": _BATCH_S, "max_batch": 4, "log_level": "error", **settings}
    )


@contextmanager
def pinned(running: ServiceProcess) -> Iterator[None]:
    """Around a load: the clients of this process have the last core, the service the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield
        return
    for process in running.family():
        process.cpu_affinity(cores[:-1])
    os.sched_setaffinity(0, cores[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def r6(run: Run) -> Found:
    """Peak goodput of a closed loop, then ten times as many requests from an open one."""
    clip = make_clip(num_frames=25, sound="aac")
    seconds = run.sizes.seconds
    with service() as running, pinned(running):
        target = target_of(running, clip)
        peak, flood, after = Outcome(), Outcome(), Outcome()
        since_s = time.perf_counter()
        await clients(target, peak, num=32, seconds=seconds)
        peak_per_s = peak.num(200) / (time.perf_counter() - since_s)
        since_s = time.perf_counter()
        await arrivals(target, flood, per_s=10 * peak_per_s, seconds=seconds)
        goodput_per_s = flood.num(200) / (time.perf_counter() - since_s)
        await clients(target, after, num=1, seconds=seconds / 2)
    ratio = goodput_per_s / peak_per_s
    p99_s = flood.quantile_s(429, 0.99)
    figures = {
        "peak_per_s": round(peak_per_s, 2),
        "goodput_ratio": round(ratio, 3),
        "answers": flood.statuses(),
        "refusal_p50_s": round(flood.quantile_s(429, 0.5), 4),
        "refusal_p99_s": round(p99_s, 4),
        "p50_s_afterwards": round(after.quantile_s(200, 0.5), 3),
    }
    return found(
        figures,
        never={"answers other than 200 and 429": set(flood.statuses()) - {"200", "429"}},
        bars={"goodput >= 0.80": ratio >= 0.8, "p99 of refusals <= 0.1 s": p99_s <= 0.1},
    )


async def r8(run: Run) -> Found:
    """Normal clients alone, and beside slow clients of each sort."""
    figures: dict[str, object] = {"slow_clients": run.sizes.slow}
    refused: dict[str, int] = {}
    bars: dict[str, bool] = {}
    for sorts, settings in ((SORTS, {}), (("readers",), {"cache_bytes": 2**28, "max_batch": 64, "fake_batch_s": 0.05})):
        with service(**settings) as running, pinned(running):
            for sort, row in (await _beside(run, running, sorts)).items():
                figures[sort] = row
                bars[f"p50 beside {sort} <= 1.3 times"] = row["p50_ratio"] <= 1.3
                if row["refused"]:
                    refused[sort] = round(row["refused"])
    return found(figures, never={"normal clients were refused": refused}, bars=bars)


async def _beside(run: Run, running: ServiceProcess, sorts: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """For each sort: p50 relative to that alone, answers other than 200, slow connections that the service ended.

    Alone is measured before and after each sort, so that a change of the machine's load shows on both sides. The
    processor seconds of the service's main process, which do not depend on the load, show what slow clients cost:
    until they wait (`arrival_cpu_s`), and then in each second beyond those of the normal clients (`cpu_share`).
    """
    target = target_of(running, make_clip(num_frames=25, sound="aac"))
    rows = {}
    for sort in sorts:
        slow_target = await _read_target(running) if sort == "readers" else target
        alone, beside = Outcome(), Outcome()
        cpu_alone = await _load(running, target, alone, seconds=run.sizes.seconds / 2)
        before_s = _cpu_s(running)
        async with slow_clients(slow_target, sort, num=run.sizes.slow) as ended:
            if sort == "readers":
                await _arrived(running, num=run.sizes.slow)
            await _settle(running)
            arrival_s = _cpu_s(running) - before_s
            cpu_beside = await _load(running, target, beside, seconds=run.sizes.seconds)
            num_ended = ended["ended"]
        await _settle(running)
        await _load(running, target, alone, seconds=run.sizes.seconds / 2)
        per_request_s = cpu_alone.cpu_s / max(1, cpu_alone.num_answers)
        extra_s = cpu_beside.cpu_s - per_request_s * cpu_beside.num_answers
        rows[sort] = {
            "p50_ratio": round(beside.quantile_s(200, 0.5) / alone.quantile_s(200, 0.5), 3),
            "refused": sum(num for status, num in beside.statuses().items() if status != "200"),
            "cut": num_ended,
            "arrival_cpu_s": round(arrival_s, 2),
            "cpu_share": round(extra_s / cpu_beside.seconds, 3),
        }
    return rows


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a load cost the service's main process: processor seconds, in so many seconds, for so many answers."""

    cpu_s: float
    seconds: float
    num_answers: int


async def _load(running: ServiceProcess, target: Target, outcome: Outcome, *, seconds: float) -> _Cost:
    """Two normal clients."""
    cpu_s, since_s, num_before = _cpu_s(running), time.perf_counter(), outcome.num(200)
    await clients(target, outcome, num=2, seconds=seconds)
    return _Cost(_cpu_s(running) - cpu_s, time.perf_counter() - since_s, outcome.num(200) - num_before)


def _cpu_s(running: ServiceProcess) -> float:
    used = psutil.Process(running.process.pid).cpu_times()
    return float(used.user + used.system)


async def _arrived(running: ServiceProcess, *, num: int) -> None:
    """Wait until so many requests are inside. A busy machine may take seconds until it begins with the first."""
    for _ in range(int(_MOST_SETTLE_S / _SETTLE_S)):
        if running.metric("requests_in_flight") >= num:
            return
        await asyncio.sleep(_SETTLE_S)


async def _settle(running: ServiceProcess) -> None:
    """Wait until the requests of slow clients that just came, or left, cost the service nothing more."""
    for _ in range(int(_MOST_SETTLE_S / _SETTLE_S)):
        before_s = _cpu_s(running)
        await asyncio.sleep(_SETTLE_S)
        if _cpu_s(running) - before_s < _IDLE_SHARE * _SETTLE_S:
            return


def read_clip() -> bytes:
    """A small clip with a long answer."""
    return make_clip(
        num_frames=_READ_FRAMES,
        width=64,
        height=64,
        flash_frames=frozenset(range(0, _READ_FRAMES, 2)),
        gop=_READ_FRAMES,
        codec_options={"crf": "51"},
        sound_layout="mono",
        sound_options={"b": "16000"},
    )


async def _read_target(running: ServiceProcess) -> Target:
    """A request with a long answer, which the service has computed once and cached."""
    clip = read_clip()
    target = target_of(running, clip, path="/segment?fps=native&format=ndjson")
    async with httpx.AsyncClient(timeout=120) as client:
        answer = await client.post(
            running.url + target.path, content=clip, headers={"Content-Type": "video/mp4", "X-Request-Timeout": "100"}
        )
    assert len(answer.content) > _READ_BYTES, "the answer would fit into the buffers of the kernel"
    return target


async def keys(run: Run) -> Found:
    """Eighty clients of key A, eight of key B: none of B is refused, and B gets what it asks for."""
    clip = make_clip(num_frames=25, sound="aac")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()} team {key}\n" for key in "AB"))
        settings = {"api_keys_file": file, "max_concurrent_requests": 16, "max_waiting_requests": 16}
        with service(**settings) as running, pinned(running):
            of_a, of_b = Outcome(), Outcome()
            target = target_of(running, clip)
            await asyncio.gather(
                clients(target, of_a, num=80, seconds=run.sizes.seconds, key="A"),
                clients(target, of_b, num=8, seconds=run.sizes.seconds, key="B"),
            )
    figures = {
        "a": of_a.statuses(),
        "b": of_b.statuses(),
        "a_p50_s": round(of_a.quantile_s(200, 0.5), 3),
        "b_p50_s": round(of_b.quantile_s(200, 0.5), 3),
    }
    return found(figures, never={"requests of key B were refused": set(of_b.statuses()) - {"200"}})
