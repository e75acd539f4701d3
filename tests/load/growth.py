"""R9: does the service stay the same size under mixed work?

Good clips as JSON and as lines, bad files, bad options and clients that leave in the middle are posted, a few at a
time, to a service with the fake predictor. Memory held by the whole process family, file descriptors and threads are
sampled. The second half must be flat. The control runs a tenth of the requests with a predictor that leaks, which must
be noticed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil
from support.inputs.clips import make_clip
from support.inputs.hostile import hostile_corpus
from support.proof import Found, Run, found
from support.servers.service_process import ServiceProcess

MIB = 1024**2
MAX_GROWTH_MIB_PER_10K = 10.0
CLIENTS = 6
# Bytes that the predictor of the control keeps of each call.
LEAK_BYTES = 50_000
_MIN_CONTROL = 1000
# A decoder child lives for one clip. Only children that are this old count, as what they are then.
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
        """Add a row: requests done, unique memory, descriptors, threads, over all processes that stay."""
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
        """Slope of a line through the second half of the samples."""
        rows = [row for row in self.sizes if row[0] >= self.num_done / 2]
        if len(rows) < 3:
            return 0.0
        done, memory = np.array([row[:2] for row in rows], float).T
        return float(np.polyfit(done, memory, 1)[0]) * 10_000 / MIB

    def left_over(self, column: int) -> bool:
        """Whether more is open at the end than ever in the second quarter; descriptors are column 2, threads 3."""
        early = [row for row in self.sizes if self.num_done * 0.25 <= row[0] <= self.num_done * 0.5]
        return bool(early) and self.sizes[-1][column] > max(row[column] for row in early)


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
    return "200" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['code']}"


async def drive(service: ServiceProcess, *, num_requests: int, seed: int) -> tuple[Log, bool]:
    """Send the requests; what happened, and whether a good clip is answered as before."""
    log = Log()
    clips = [make_clip(num_frames=n, sound="aac") for n in (10, 25, 50)]
    bad = [file.data for file in hostile_corpus() if len(file.data) < MIB]
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:

        async def reference() -> object:
            return (await client.post("/segment?fps=2", content=clips[-1], headers=_HEADERS)).json()["frames"]

        async def work(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            while log.num_done < num_requests:
                log.answers[await one_request(client, rng, clips, bad)] += 1
                log.num_done += 1

        async def watch() -> None:
            while True:
                log.sample(service)
                await asyncio.sleep(1.0)

        before = await reference()
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(work(number) for number in range(CLIENTS)))
        watching.cancel()
        await asyncio.sleep(2.0)  # what was given up has ended by now
        log.sample(service)
        return log, before == await reference()


async def r9(run: Run) -> Found:
    """Mixed requests, then a tenth of them with a planted leak."""
    num_control = max(_MIN_CONTROL, run.sizes.requests // 10)
    since_s = time.monotonic()
    with ServiceProcess(cache_bytes=0, log_level="error") as service:
        log, is_same = await drive(service, num_requests=run.sizes.requests, seed=run.seed)
    seconds = time.monotonic() - since_s
    growth = log.growth_mib_per_10k()
    figures: dict[str, object] = {
        "requests": log.num_done,
        "seconds": round(seconds, 1),
        "growth_mib_per_10k": round(growth, 2),
        "memory_mib": [round(row[1] / MIB, 1) for row in (log.sizes[0], log.sizes[-1])],
        "descriptors": [log.sizes[0][2], log.sizes[-1][2]],
        "threads": [log.sizes[0][3], log.sizes[-1][3]],
        "answers": dict(log.answers.most_common()),
    }
    is_long = run.sizes.requests >= _MIN_CONTROL  # a short run shows no slope
    if is_long:
        with ServiceProcess(cache_bytes=0, log_level="error", fake_leak_bytes=LEAK_BYTES) as leaking:
            control, _ = await drive(leaking, num_requests=num_control, seed=run.seed)
        figures["control_mib_per_10k"] = round(control.growth_mib_per_10k(), 1)
    return found(
        figures,
        never={
            "5xx": [name for name in log.answers if name.startswith("5")],
            "a good clip is answered otherwise afterwards": not is_same,
            "descriptors are left over": is_long and log.left_over(2),
            "threads are left over": is_long and log.left_over(3),
            "the planted leak was not found": is_long and control.growth_mib_per_10k() <= MAX_GROWTH_MIB_PER_10K,
        },
        bars={f"growth < {MAX_GROWTH_MIB_PER_10K:g} MiB per 10 000": not is_long or growth < MAX_GROWTH_MIB_PER_10K},
    )
