"""Processes of one service that die, wedge or are told to end: R5, R7, R13, R16 and R17."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
from load.abuse import read_clip
from load.strangers import client_of, code_of, grpc_code
from support.inputs.clips import make_clip
from support.proof import Found, Run, found, suite
from support.servers.service_process import ServiceProcess
from support.waiting import until

_RAW = {"Content-Type": "video/mp4", "Cache-Control": "no-cache"}
_NUM_CLIENTS = 4
_DRAIN_S = 30.0
# The service looks after its zygote every second and gives up on it after 4 s.
_ZYGOTE_S = 10.0
_SHM = Path("/dev/shm")


def decoders_of(running: ServiceProcess) -> list[psutil.Process]:
    """Children that have an upload open, without the zygote, which hands it on."""
    found_ones = []
    for process in running.family()[1:]:
        with contextlib.suppress(OSError, psutil.Error):
            if process.children():
                continue
            links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process.pid}/fd")]
            if any("/upload-" in link for link in links):
                found_ones.append(process)
    return found_ones


def zygote_of(running: ServiceProcess) -> psutil.Process:
    """The process that decoders are forked from."""
    return next(each for each in running.family()[1:] if "decoder_zygote" in " ".join(each.cmdline()))


def open_things(running: ServiceProcess) -> dict[str, int]:
    """What must not be left over: descriptors of the service, zombies, files in shared memory."""
    family = running.family()
    zombies = [each for each in family if each.status() == psutil.STATUS_ZOMBIE]
    return {"descriptors": family[0].num_fds(), "zombies": len(zombies), "shm": len(list(_SHM.iterdir()))}


@asynccontextmanager
async def load(ask: Callable[[], Awaitable[str]], *, num: int = _NUM_CLIENTS) -> AsyncIterator[Counter[str]]:
    """Around a body: clients that ask without pause; counts the codes of their answers."""
    codes: Counter[str] = Counter()
    is_over = False

    async def one() -> None:
        while not is_over:
            codes[await ask()] += 1

    tasks = [asyncio.create_task(one()) for _ in range(num)]
    try:
        yield codes
    finally:
        is_over = True
        await asyncio.gather(*tasks)


async def r5(run: Run) -> Found:
    """SIGKILL decoders in the middle of their clips."""
    clip = make_clip(num_frames=100, sound="aac")
    rng = random.Random(run.seed)
    num_killed = 0
    with ServiceProcess(cache_bytes=0, log_level="error") as running:
        async with client_of(running) as client:

            async def ask() -> str:
                return code_of(await client.post("/segment?fps=native&size=model", content=clip, headers=_RAW))

            await asyncio.gather(*(ask() for _ in range(_NUM_CLIENTS)))
            before = open_things(running)
            async with load(ask) as codes:
                while num_killed < run.sizes.kills:
                    for victim in rng.sample(alive := decoders_of(running), min(1, len(alive))):
                        with contextlib.suppress(psutil.Error):
                            victim.kill()
                            num_killed += 1
                    await asyncio.sleep(0.02)
            is_good = await ask() == "ok"
            await until(lambda: open_things(running)["descriptors"] <= before["descriptors"] + 2)
            after = open_things(running)
    return found(
        {"kills": num_killed, "answers": dict(codes), "before": before, "after": after},
        never={
            "undocumented answers": set(codes) - {"ok", "decoder_gone"},
            "a good clip is refused afterwards": not is_good,
            "zombies are left": after["zombies"],
            "shared memory is left": after["shm"] > before["shm"],
        },
    )


async def r7(run: Run) -> Found:
    """SIGTERM under load: what was accepted is answered over HTTP and gRPC, what comes later is refused."""
    clip = make_clip(num_frames=50, sound="aac")
    settings = {"fake_batch_s": 0.05, "drain_s": _DRAIN_S}
    with ServiceProcess(cache_bytes=0, log_level="error", **settings) as running:
        readiness: list[int] = []

        async def over_http() -> str:
            try:
                async with client_of(running) as client:
                    return code_of(await client.post("/segment?fps=native", content=clip, headers=_RAW))
            except httpx.ConnectError:
                return "not connected"
            except httpx.TransportError:
                return "lost"

        async def over_grpc() -> str:
            code = await grpc_code(running, clip)
            return "not connected" if code == "backend_down" else code

        async def watch() -> None:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    async with client_of(running) as client:
                        readiness.append((await client.get("/readyz")).status_code)
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        async with load(over_http) as http_codes, load(over_grpc) as grpc_codes:
            await asyncio.sleep(max(1.0, run.sizes.seconds / 4))
            running.terminate()
            since_s = time.monotonic()
            exit_code = await asyncio.to_thread(running.wait)
            exit_s = time.monotonic() - since_s
        watching.cancel()
    refused = {"ok", "draining", "not connected"}
    return found(
        {
            "http": dict(http_codes),
            "grpc": dict(grpc_codes),
            "exit_s": round(exit_s, 2),
            "readyz_503": 503 in readiness,
        },
        never={
            "requests were lost over HTTP": set(http_codes) - refused,
            "requests were lost over gRPC": set(grpc_codes) - refused,
            "nothing was answered": not (http_codes["ok"] and grpc_codes["ok"]),
            "exit code": exit_code,
        },
        bars={"exit within the drain": exit_s <= _DRAIN_S},
    )


async def r13(run: Run) -> Found:
    """Full disks, no descriptors, a device out of memory."""
    return await suite(
        "tests/integration/deploy/test_addresses_and_folders.py",
        "tests/integration/rest/test_http_edges.py::test_without_descriptors_clients_are_told_when_to_come_back",
        "tests/unit/service/batching/test_batch_runner.py",
    )


async def r16_children(run: Run) -> Found:
    """SIGSTOP the zygote, then a decoder: each is noticed, and the service goes on."""
    clip = make_clip(num_frames=25, sound="aac")
    long_clip = read_clip()
    with ServiceProcess(cache_bytes=0, log_level="error") as running:
        async with client_of(running) as client:

            async def ask(data: bytes, options: str = "") -> str:
                return code_of(await client.post(f"/segment{options}", content=data, headers=_RAW))

            wedged = zygote_of(running)
            wedged.suspend()
            since_s = time.monotonic()
            await until(lambda: not wedged.is_running(), hang_s=_ZYGOTE_S * 6)
            code = await ask(clip)
            while code == "decoder_gone":
                code = await ask(clip)
            replaced_s = time.monotonic() - since_s
            asking = asyncio.create_task(ask(long_clip, "?fps=native&size=model"))
            await until(lambda: decoders_of(running))
            since_s = time.monotonic()
            for each in decoders_of(running):
                each.suspend()
            beside = await ask(clip)
            stopped_code = await asking
            stopped_s = time.monotonic() - since_s
            await until(lambda: not decoders_of(running))
    return found(
        {
            "zygote_replaced_s": round(replaced_s, 2),
            "decoder_ended_s": round(stopped_s, 2),
            "decoder_code": stopped_code,
            "beside": beside,
        },
        never={
            "not answered after the zygote": code != "ok",
            "a neighbour was not answered": beside != "ok",
            "the stopped decoder had ended before: it proves nothing": stopped_code == "ok",
            "undocumented code of the stopped decoder": stopped_code not in ("deadline_exceeded", "ok"),
        },
        bars={"zygote replaced within 10 s": replaced_s <= _ZYGOTE_S, "decoder ended within 40 s": stopped_s <= 40.0},
    )


async def r17(run: Run) -> Found:
    """Cold start, and a wall clock that jumps an hour forth and back while requests and jobs run."""
    clip = make_clip(num_frames=100, sound="aac")
    since_s = time.monotonic()
    with ServiceProcess(log_level="error", cache_bytes=0, fake_clock=1, fake_batch_s=0.1) as running:
        start_s = time.monotonic() - since_s
        codes: Counter[str] = Counter()
        states: Counter[str] = Counter()
        async with client_of(running) as client:
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2, signal.SIGUSR1):
                job = await client.post("/jobs?fps=native", content=clip, headers=_RAW)
                asking = [
                    asyncio.create_task(client.post("/segment?fps=native", content=clip, headers=_RAW))
                    for _ in range(4)
                ]
                await asyncio.sleep(0.2)
                running.terminate(number)
                codes.update(code_of(answer) for answer in await asyncio.gather(*asking))
                states[await _end_of(client, job.headers["location"])] += 1
    return found(
        {"cold_start_s": round(start_s, 2), "requests": dict(codes), "jobs": dict(states)},
        never={"requests failed": set(codes) - {"ok"}, "jobs failed": set(states) - {"done"}},
    )


async def _end_of(client: httpx.AsyncClient, location: str) -> str:
    async with asyncio.timeout(60.0):
        while True:
            state = str((await client.get(location)).json().get("state"))
            if state not in ("queued", "running"):
                return state
            await asyncio.sleep(0.05)
