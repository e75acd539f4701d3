"""What do strangers cost others? (part of `make soak`)

R1: mutated clips, then the same answer as before. R6: ten times the load that the service can do. R8: slow heads, slow
bodies and silent connections beside normal clients. keys: eighty clients of one API key beside eight of another. The
service is a process of its own with an emulated device; the clients share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
from support.abuse_load import SORTS, Outcome, Target, arrivals, clients, slow_clients
from support.clips import make_clip
from support.service_process import ServiceProcess

_RAW = {"Content-Type": "video/mp4"}
# A batch of the emulated device: capacity is bounded by it and not by the two processes' share of the cores.
_BATCH_S = 0.2
Finding = tuple[dict[str, object], list[str]]


def service(**settings: object) -> ServiceProcess:
    """A service with shipped bounds whose device is the bottleneck."""
    return ServiceProcess(cache_bytes=0, log_level="error", fake_batch_s=_BATCH_S, max_batch=4, **settings)


def target(running: ServiceProcess, clip: bytes, *, path: str = "/segment") -> Target:
    """Where to send this clip."""
    return Target(int(running.url.rpartition(":")[2]), clip, path)


def mutated(clip: bytes, rng: random.Random) -> bytes:
    """The clip with a few bytes changed, cut, doubled or moved."""
    data = bytearray(clip)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


async def r1(options: argparse.Namespace) -> Finding:
    """Mutated clips: every answer documented, none of them 5xx, and nothing else changed."""
    clip = make_clip(num_frames=25, sound="aac")
    answers: Counter[str] = Counter()
    seconds: list[float] = []
    with ServiceProcess(cache_bytes=0, log_level="error") as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=120) as client:

            async def post(data: bytes) -> httpx.Response:
                return await client.post("/segment", content=data, headers=_RAW)

            before = (await post(clip)).json()["frames"]
            numbers = iter(range(options.clips))

            async def work() -> None:
                for number in numbers:
                    since_s = time.perf_counter()
                    answer = await post(mutated(clip, random.Random(f"{options.seed} {number}")))
                    seconds.append(time.perf_counter() - since_s)
                    code = "ok" if answer.status_code == 200 else answer.json()["code"]
                    answers[f"{answer.status_code} {code}"] += 1

            await asyncio.gather(*(work() for _ in range(8)))
            after = (await post(clip)).json()["frames"]
        is_alive = running.process.poll() is None
    p99_s = sorted(seconds)[int(0.99 * len(seconds))]
    faults = [f"{name}: {num}" for name, num in answers.items() if name.startswith("5")]
    faults += [] if is_alive else ["the service died"]
    faults += [] if before == after else ["a good clip is answered otherwise afterwards"]
    return {"clips": len(seconds), "answers": dict(sorted(answers.items())), "p99_s": round(p99_s, 3)}, faults


async def r6(options: argparse.Namespace) -> Finding:
    """Peak goodput of a closed loop, then ten times as many requests from an open one."""
    clip = make_clip(num_frames=25, sound="aac")
    with service() as running:
        aim = target(running, clip)
        peak, flood, after = Outcome(), Outcome(), Outcome()
        await clients(aim, peak, num=32, seconds=options.seconds)
        peak_per_s = peak.num(200) / options.seconds
        since_s = time.perf_counter()
        await arrivals(aim, flood, per_s=10 * peak_per_s, seconds=options.seconds)
        goodput_per_s = flood.num(200) / (time.perf_counter() - since_s)
        await clients(aim, after, num=1, seconds=3.0)
    ratio = goodput_per_s / peak_per_s
    p99_s = flood.quantile_s(429, 0.99)
    faults = [] if ratio >= 0.8 else [f"goodput is {ratio:.2f} of the peak"]
    faults += [] if p99_s <= 0.1 else [f"p99 of refusals is {1000 * p99_s:.0f} ms"]
    figures = {
        "peak_per_s": round(peak_per_s, 2),
        "goodput_ratio": round(ratio, 3),
        "answers": flood.statuses(),
        "refusal_p50_s": round(flood.quantile_s(429, 0.5), 4),
        "refusal_p99_s": round(p99_s, 4),
        "p50_s_afterwards": round(after.quantile_s(200, 0.5), 3),
    }
    return figures, faults


async def r8(options: argparse.Namespace) -> Finding:
    """Normal clients alone, and beside slow clients of each sort. Slow readers are not part of it."""
    clip = make_clip(num_frames=25, sound="aac")
    figures: dict[str, object] = {"slow_clients": options.slow}
    faults: list[str] = []
    with service() as running:
        aim = target(running, clip)
        alone = Outcome()
        await clients(aim, alone, num=2, seconds=options.seconds)
        base_s = alone.quantile_s(200, 0.5)
        figures["p50_s_alone"] = round(base_s, 4)
        for sort in SORTS:
            beside = Outcome()
            async with slow_clients(aim, sort, num=options.slow) as ended:
                await asyncio.sleep(2.0)
                await clients(aim, beside, num=2, seconds=options.seconds)
                num_ended = ended["ended"]
            ratio = beside.quantile_s(200, 0.5) / base_s
            num_bad = sum(num for status, num in beside.statuses().items() if status != "200")
            figures[sort] = {"p50_ratio": round(ratio, 3), "refused": num_bad, "cut": num_ended}
            faults += [] if ratio <= 1.3 else [f"p50 beside slow {sort} is {ratio:.2f} times that alone"]
            faults += [] if not num_bad else [f"{num_bad} requests refused beside slow {sort}"]
    return figures, faults


async def keys(options: argparse.Namespace) -> Finding:
    """Eighty clients of key A, eight of key B: none of B is refused, and B gets what it asks for."""
    clip = make_clip(num_frames=25, sound="aac")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()} team {key}\n" for key in "AB"))
        with service(api_keys_file=file, max_concurrent_requests=16, max_waiting_requests=16) as running:
            aim = target(running, clip)
            of_a, of_b = Outcome(), Outcome()
            await asyncio.gather(
                clients(aim, of_a, num=80, seconds=options.seconds, key="A"),
                clients(aim, of_b, num=8, seconds=options.seconds, key="B"),
            )
    refused = sum(num for status, num in of_b.statuses().items() if status != "200")
    figures = {
        "a": of_a.statuses(),
        "b": of_b.statuses(),
        "a_p50_s": round(of_a.quantile_s(200, 0.5), 3),
        "b_p50_s": round(of_b.quantile_s(200, 0.5), 3),
    }
    return figures, [f"{refused} of key B refused"] if refused else []


EXPERIMENTS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, Finding]]] = {
    "R1": r1,
    "R6": r6,
    "R8": r8,
    "keys": keys,
}


def main() -> int:
    """Parse the command line, run, print one line per experiment; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=EXPERIMENTS)
    parser.add_argument("--clips", type=int, default=1000, help="of R1")
    parser.add_argument("--slow", type=int, default=500, help="slow clients of R8, of each sort")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    told: dict[str, object] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "seed": given.seed}
    told |= {"command": " ".join(["tests/load/abuse.py", *sys.argv[1:]]), "cores": os.cpu_count()}
    has_fault = False
    print(json.dumps(told), flush=True)  # noqa: T201  # the figures are what the script is for
    for name, experiment in EXPERIMENTS.items():
        if given.only and name not in given.only:
            continue
        figures, faults = asyncio.run(experiment(given))
        has_fault |= bool(faults)
        told[name] = {**figures, "faults": faults}
        print(f"{name}: {'MISSED: ' + '; '.join(faults) if faults else 'ok'}; {json.dumps(figures)}", flush=True)  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return int(has_fault)


if __name__ == "__main__":
    sys.exit(main())
