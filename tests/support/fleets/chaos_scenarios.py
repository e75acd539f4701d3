"""What is done to a ChaosFleet under load, and what came of it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from redis import Redis
from support.fleets.chaos_fleet import (
    GUARD_S,
    SOUNDING,
    ChaosFleet,
    ChaosLoad,
    ask,
    job_frames,
    submit,
)
from support.inputs.clips import make_clip
from support.servers.redis_server import RedisServer
from support.servers.worker_process import WorkerProcess, keep_alive
from support.waiting import until

from service.wiring.worker import worker_name

NUM_JOBS = 6
# Longer than a front waits for Redis before it says `backend_down`.
OUTAGE_S = 5.0
_BETWEEN_S = 0.2
_LISTEN_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What a scenario showed: figures by name, and what is worse than its bar."""

    name: str
    figures: dict[str, object]
    faults: list[str]


def finding(name: str, figures: dict[str, object], **bars: tuple[bool, str]) -> Finding:
    """A finding whose faults are the bars that are not met."""
    return Finding(name, figures, [text for is_met, text in bars.values() if not is_met])


async def kill_workers(fleet: ChaosFleet, *, kills: int, on_step: Callable[[], None]) -> Finding:
    """SIGKILL one worker after the other; recovered when it is ready again and what was under way is answered.

    The start of a worker takes what the machine makes of it, so that the bar is on what comes on top.
    """
    starts_s: list[float] = []
    recoveries_s: list[float] = []
    async with ChaosLoad(fleet) as load:
        for number in range(kills):
            await load.more(10)
            victim = fleet.workers[number % len(fleet.workers)]
            under_way = set(load.under_way)
            victim.kill()
            await asyncio.sleep(_BETWEEN_S)
            started_s = time.monotonic()
            victim.start()
            settling = asyncio.create_task(load.settled(under_way))
            await victim.wait_ready()
            starts_s.append(time.monotonic() - started_s)
            await settling
            recoveries_s.append(time.monotonic() - started_s)
            on_step()
    beyond_s = max(recovery - start for recovery, start in zip(recoveries_s, starts_s, strict=True))
    figures: dict[str, object] = {
        "kills": kills,
        "answers": len(load.answered_at_s),
        "lost": len(load.failures),
        "wrong": load.num_wrong,
        "start_max_s": round(max(starts_s), 2),
        "recovery_max_s": round(max(recoveries_s), 2),
        "recovery_beyond_start_s": round(beyond_s, 2),
    }
    return finding(
        "worker kill -9",
        figures,
        lost=(not load.failures, f"accepted requests were lost: {dict(Counter(load.failures))}"),
        wrong=(not load.num_wrong, "wrong answers"),
        time=(beyond_s <= 5.0, "recovery took over 5 s beyond the worker's start"),
    )


async def kill_front(fleet: ChaosFleet) -> Finding:
    """SIGKILL a front that has jobs under way; the other one ends them."""
    victim, other = fleet.fronts
    clip = make_clip(num_frames=150, flash_frames=SOUNDING)
    async with httpx.AsyncClient(timeout=GUARD_S) as client:
        expected = await job_frames(client, other, await submit(client, other, clip))
        locations = [await submit(client, victim, clip) for _ in range(NUM_JOBS)]
        victim.terminate(signal.SIGKILL)
        await asyncio.to_thread(victim.wait)
        since_s = time.monotonic()
        states = [(await client.get(other.url + location)).json()["state"] for location in locations]
        frames = await asyncio.gather(*(job_frames(client, other, location) for location in locations))
        took_s = time.monotonic() - since_s
    fleet.fronts.remove(victim)
    await asyncio.to_thread(fleet.start_front)
    num_right = sum(found == expected for found in frames)
    num_open = sum(state in ("queued", "running") for state in states)
    figures: dict[str, object] = {"jobs": NUM_JOBS, "unfinished_at_kill": num_open, "right": num_right}
    return finding(
        "front kill -9",
        figures | {"done_after_s": round(took_s, 2)},
        right=(num_right == NUM_JOBS, "jobs of the killed front were not ended rightly by the other"),
        proof=(num_open > 0, "nothing was under way at the kill: it proves nothing"),
    )


async def kill_redis(fleet: ChaosFleet, server: RedisServer, name: str) -> Finding:
    """SIGKILL a Redis under load, keep it away, start it again; resumed when every front answers rightly."""
    clip = make_clip(num_frames=60, flash_frames=SOUNDING)
    async with httpx.AsyncClient(timeout=GUARD_S) as client, ChaosLoad(fleet) as load:
        expected = await job_frames(client, fleet.fronts[0], await submit(client, fleet.fronts[0], clip))
        await load.more(10)
        num_before = len(load.failures)
        locations = [await submit(client, fleet.fronts[number % 2], clip) for number in range(NUM_JOBS)]
        server.kill()
        await asyncio.sleep(OUTAGE_S)
        meanwhile = [await ask(client, front, fleet, 0) for front in fleet.fronts]
        await asyncio.to_thread(server.start)
        since_s = time.monotonic()
        for front in fleet.fronts:
            while await ask(client, front, fleet, 0) != "right":
                await asyncio.sleep(0.05)
        resumed_s = time.monotonic() - since_s
        await load.more(10)
        frames = [await job_frames(client, fleet.fronts[0], location) for location in locations]
    num_right = sum(found == expected for found in frames)
    codes = Counter(load.failures[num_before:])
    figures: dict[str, object] = {"jobs": NUM_JOBS, "jobs_right": num_right, "meanwhile": meanwhile}
    return finding(
        name,
        figures | {"failures": dict(codes), "wrong": load.num_wrong, "resumed_after_s": round(resumed_s, 2)},
        jobs=(num_right == NUM_JOBS, "accepted jobs did not survive"),
        code=({*codes, *meanwhile} == {"backend_down"}, "requests got another answer than backend_down"),
        wrong=(not load.num_wrong, "wrong answers"),
        time=(resumed_s <= 5.0, "the service took over 5 s to resume"),
    )


async def stop_worker(fleet: ChaosFleet) -> Finding:
    """SIGSTOP a worker that holds chunks; another runs them, and what it says after SIGCONT does not count."""
    wedged, other = fleet.workers
    async with ChaosLoad(fleet) as load:
        await load.more(10)
        held = await _stop_while_it_holds(fleet, wedged)
        under_way, since_s = set(load.under_way), time.monotonic()
        before = await other.metric("redeliveries_total")
        while await other.metric("redeliveries_total") == before:
            await asyncio.sleep(0.05)
        noticed_s = time.monotonic() - since_s
        await load.settled(under_way)
        is_listening = threading.Event()
        late = asyncio.create_task(asyncio.to_thread(_replies_to, fleet, held, wedged, is_listening))
        await asyncio.to_thread(is_listening.wait)
        wedged.signal(signal.SIGCONT)
        await wedged.wait_ready()
        num_late = await late
        await load.more(20)
    figures: dict[str, object] = {
        "chunks_held": len(held),
        "noticed_after_s": round(noticed_s, 2),
        "lost": len(load.failures),
        "wrong": load.num_wrong,
        "late_replies": num_late,
    }
    return finding(
        "worker SIGSTOP",
        figures,
        time=(noticed_s <= 10.0, "it was noticed after over 10 s"),
        lost=(not load.failures, f"accepted requests were lost: {dict(Counter(load.failures))}"),
        wrong=(not load.num_wrong, "wrong answers"),
        late=(not num_late, "late replies were sent"),
    )


async def storm(fleet: ChaosFleet, *, times: int = 3) -> Finding:
    """SIGKILL all workers at once, again and again; recovered when a front answers rightly."""
    recoveries_s: list[float] = []
    async with httpx.AsyncClient(timeout=GUARD_S) as client, ChaosLoad(fleet) as load:
        for _ in range(times):
            await load.more(10)
            for worker in fleet.workers:
                worker.kill()
            await asyncio.sleep(_BETWEEN_S)
            for worker in fleet.workers:
                worker.start()
            await asyncio.gather(*(worker.wait_ready() for worker in fleet.workers))
            since_s = time.monotonic()
            while await ask(client, fleet.fronts[0], fleet, 0) != "right":
                await asyncio.sleep(0.05)
            recoveries_s.append(time.monotonic() - since_s)
    codes = Counter(load.failures)
    figures: dict[str, object] = {"times": times, "answers": len(load.answered_at_s), "failures": dict(codes)}
    return finding(
        "worker storm",
        figures | {"wrong": load.num_wrong, "recovery_max_s": round(max(recoveries_s), 2)},
        code=(set(codes) <= {"backend_down"}, "requests got another answer than backend_down"),
        wrong=(not load.num_wrong, "wrong answers"),
        time=(max(recoveries_s) <= 5.0, "recovery took over 5 s"),
    )


async def poison(fleet: ChaosFleet) -> Finding:
    """A clip that ends its worker each time, among others; workers are restarted as an orchestrator does."""
    clip = make_clip(num_frames=20, flash_frames=SOUNDING, poison_frames=frozenset({11}))
    since_s = time.monotonic()
    async with httpx.AsyncClient(timeout=GUARD_S) as client:
        keeping = asyncio.create_task(keep_alive(fleet.workers))
        healthy = [asyncio.create_task(ask(client, fleet.fronts[n % 2], fleet, n % 4)) for n in range(8)]
        answer = await client.post(
            f"{fleet.fronts[0].url}/v1/segment?fps=native", content=clip, headers={"Content-Type": "video/mp4"}
        )
        others = await asyncio.gather(*healthy)
        took_s = time.monotonic() - since_s
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        for worker in fleet.workers:
            if worker.process is not None and worker.process.poll() is not None:
                worker.start()
            await worker.wait_ready()
    code = answer.json().get("code", "answered")
    figures: dict[str, object] = {"status": answer.status_code, "code": code, "neighbours": dict(Counter(others))}
    return finding(
        "poison clip",
        figures | {"seconds": round(took_s, 2)},
        code=(code == "poison_clip", "it did not end as poison_clip"),
        others=(set(others) == {"right"}, "neighbours were not all answered rightly"),
    )


async def leftovers(fleet: ChaosFleet) -> Finding:
    """What lies in Redis once nobody asks any more."""
    await asyncio.sleep(_BETWEEN_S)
    await until(lambda: fleet.num_left() == 0)
    return finding("afterwards", {"entries_left": 0})


async def _stop_while_it_holds(fleet: ChaosFleet, worker: WorkerProcess) -> set[str]:
    """Stop it at a moment when it has chunks; which."""
    while True:
        worker.signal(signal.SIGSTOP)
        held = await asyncio.to_thread(fleet.held_by, worker)
        if held:
            return held
        worker.signal(signal.SIGCONT)
        await asyncio.sleep(0.01)


def _replies_to(fleet: ChaosFleet, refs: set[str], worker: WorkerProcess, is_listening: threading.Event) -> int:
    """Replies that a worker sends about these chunks within some seconds: read off what its Redis is told.

    Fronts listen all the time, so there is always a next command.
    """
    by, num = worker_name(worker.port), 0
    with Redis(port=fleet.data.port) as client, client.monitor() as monitor:
        is_listening.set()
        until_s = time.monotonic() + _LISTEN_S
        while time.monotonic() < until_s:
            words = monitor.next_command()["command"]
            num += words.startswith("XADD") and f" {by} " in words and any(ref in words for ref in refs)
    return num
