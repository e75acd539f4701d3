"""Does the service stay the same size under hours of mixed work? (`make soak`)

Good clips as JSON and as lines, hostile files, bad options and clients that leave in the middle are posted, a few at a
time, to a service process with the fake predictor. Memory held by the whole process family, file descriptors and
threads are sampled. The second half must be flat; every answer must be documented; afterwards a good clip gets the
answer that it got first. With --control the predictor leaks 50 kB a call, and the run must find that out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from rich.progress import Progress
from support.clips import make_clip
from support.hostile import hostile_corpus
from support.service_process import ServiceProcess

MIB = 1024**2
# Bar R9 of the reliability anchors: second half, all processes, per 10 000 requests.
MAX_GROWTH_MIB_PER_10K = 20.0
CLIENTS = 6
LEAK_BYTES = 50_000
LASTING_S = 10.0
_HEADERS = {"Content-Type": "video/mp4"}
_LINES = {**_HEADERS, "Accept": "application/x-ndjson"}


@dataclass
class Log:
    """What happened: answers by status and code, and the family's size over the number of requests."""

    answers: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int, int, int]] = field(default_factory=list)
    num_done: int = 0

    def sample(self, service: ServiceProcess) -> None:
        """One row: requests done, unique memory, descriptors, threads, over all processes that stay.

        A decoder child lives for one clip: only those still there after ten seconds count, as what they are then.
        """
        memory = descriptors = threads = 0
        for process in service.family():
            try:
                if process.pid != service.process.pid and time.time() - process.create_time() < LASTING_S:
                    continue
                memory += process.memory_full_info().uss
                descriptors += process.num_fds()
                threads += process.num_threads()
            except psutil.Error:
                continue  # it has just ended
        self.sizes.append((self.num_done, memory, descriptors, threads))

    def growth_mib_per_10k(self) -> float:
        """Slope of memory over the second half of the requests, by least squares."""
        rows = np.array([row for row in self.sizes if row[0] >= self.num_done / 2], dtype=float)
        slope = np.polyfit(rows[:, 0], rows[:, 1] / MIB, 1)[0]
        return float(slope * 10_000)


async def one_request(client: httpx.AsyncClient, rng: random.Random, clips: list[bytes], bad: list[bytes]) -> str:
    """Post something; returns what became of it."""
    choice = rng.random()
    if choice < 0.45:
        answer = await client.post("/segment?fps=2", content=rng.choice(clips), headers=_HEADERS)
    elif choice < 0.65:
        answer = await client.post("/segment?fps=native&size=model", content=rng.choice(clips), headers=_LINES)
    elif choice < 0.85:
        answer = await client.post("/segment", content=rng.choice(bad), headers=_HEADERS)
    elif choice < 0.9:
        answer = await client.post("/segment?fps=nan", content=rng.choice(clips), headers=_HEADERS)
    else:
        try:
            async with asyncio.timeout(rng.uniform(0.001, 0.1)):
                await client.post("/segment?fps=native", content=rng.choice(clips), headers=_LINES)
        except TimeoutError:
            return "left"
        return "left too late"
    if answer.status_code == 200:
        return "200"
    return f"{answer.status_code} {answer.json()['code']}"


async def drive(service: ServiceProcess, log: Log, *, num_requests: int, seed: int) -> tuple[object, object]:
    """Run the requests; returns the reference clip's frames before and after."""
    clips = [make_clip(num_frames=n, sound="aac") for n in (10, 25, 50)]
    bad = [file.data for file in hostile_corpus() if len(file.data) < MIB]
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:

        async def reference() -> object:
            return (await client.post("/segment?fps=2", content=clips[-1], headers=_HEADERS)).json()["frames"]

        before = await reference()
        with Progress() as bar:
            task = bar.add_task("requests", total=num_requests)

            async def work(number: int) -> None:
                rng = random.Random(f"{seed} {number}")
                while log.num_done < num_requests:
                    log.answers[await one_request(client, rng, clips, bad)] += 1
                    log.num_done += 1
                    bar.advance(task)

            async def watch() -> None:
                while True:
                    log.sample(service)
                    await asyncio.sleep(1.0)

            watching = asyncio.create_task(watch())
            await asyncio.gather(*(work(number) for number in range(CLIENTS)))
            watching.cancel()
        await asyncio.sleep(2.0)  # what was given up has ended by now
        log.sample(service)
        return before, await reference()


def verdict(log: Log, before: object, after: object) -> list[str]:
    """What is wrong; empty where all is well."""
    faults = [f"undocumented answer {name}" for name in log.answers if name.startswith("5")]
    if before != after:
        faults.append("the reference clip's answer changed")
    if log.growth_mib_per_10k() > MAX_GROWTH_MIB_PER_10K:
        faults.append(f"memory grows by {log.growth_mib_per_10k():.1f} MiB per 10 000 requests")
    early = [row for row in log.sizes if log.num_done * 0.25 <= row[0] <= log.num_done * 0.5]
    for name, column in (("file descriptors", 2), ("threads", 3)):
        if early and log.sizes[-1][column] > max(row[column] for row in early):
            faults.append(f"{name} are left over: {log.sizes[-1][column]}")
    return faults


def main() -> int:
    """Parse the command line, run, print the figures; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="plant a leak that must be found")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    log = Log()
    leak = {"fake_leak_bytes": LEAK_BYTES} if given.control else {}
    since_s = time.monotonic()
    with ServiceProcess(cache_bytes=0, log_level="error", **leak) as service:
        before, after = asyncio.run(drive(service, log, num_requests=given.requests, seed=given.seed))
    faults = verdict(log, before, after)
    figures = {
        "requests": log.num_done,
        "seconds": round(time.monotonic() - since_s, 1),
        "answers": dict(sorted(log.answers.items())),
        "growth_mib_per_10k": round(log.growth_mib_per_10k(), 2),
        "memory_mib": [round(row[1] / MIB, 1) for row in (log.sizes[0], log.sizes[-1])],
        "descriptors": [log.sizes[0][2], log.sizes[-1][2]],
        "threads": [log.sizes[0][3], log.sizes[-1][3]],
        "faults": faults,
    }
    text = json.dumps(figures, indent=2)
    print(text)  # noqa: T201  # the figures are what the script is for
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return int(bool(faults) != given.control)


if __name__ == "__main__":
    sys.exit(main())
